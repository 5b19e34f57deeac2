"""Free nodes and slots, and the placement of tasks: pure bookkeeping, with an injected clock.

We place tasks ourselves. Parsl's own backlog of multi-node tasks loses tasks of mixed sizes, knows no bad nodes and
shares no allocation between executors. So the driver never submits a task without a free place, and tasks of whole
nodes run on nodes that this module names.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from gfm_pipeline.execution.size_class import SizeClass


@dataclass(frozen=True)
class Placement:
    """The place of a launch.

    Parameters
    ----------
    block
        Name of the block.
    nodes
        Names of the nodes; empty: a slot of the block's worker pools.
    tasks
        Number of tasks in the launch.
    job
        The block's job ID, if there are several blocks; empty: the job in which the launch starts.
    """

    block: str
    nodes: tuple[str, ...] = ()
    tasks: int = 1
    job: str = ""


@dataclass
class _PoolBlock:
    name: str
    nodes: list[str]  # in the batch system's order: neighbours are near each other
    ends_at: float
    usable: list[str]
    job: str = ""
    closing: bool = False
    busy: set[str] = field(default_factory=set)
    running: dict[SizeClass, int] = field(default_factory=dict)  # tasks
    launches: dict[SizeClass, int] = field(default_factory=dict)  # of whole nodes

    free: list[str] = field(default_factory=list)  # usable and not busy, in the same order
    order: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = {node: place for place, node in enumerate(self.nodes)}
        self.free = list(self.usable)

    def take(self, nodes: Sequence[str]) -> None:
        self.busy.update(nodes)
        if self.free[: len(nodes)] == list(nodes):
            del self.free[: len(nodes)]
        else:
            self.free = [node for node in self.free if node not in self.busy]

    def give_back(self, nodes: Iterable[str], excluded: Collection[str]) -> None:
        for node in nodes:
            if node in self.busy:
                self.busy.discard(node)
                if node not in excluded:
                    insort(self.free, node, key=self.order.__getitem__)

    def exclude(self, node: str) -> None:
        self.usable = [n for n in self.usable if n != node]
        self.free = [n for n in self.free if n != node]

    def count(self, *, whole: bool) -> int:
        return sum(n for size, n in self.running.items() if size.whole is whole)


class NodePool:
    """Places tasks on the nodes of one or several blocks (allocations of nodes).

    Tasks that share nodes and tasks of whole nodes never run in a block at the same time, nor do sharing tasks of two
    sizes: only Parsl knows the node of a sharing task.

    Parameters
    ----------
    launches
        Largest number of launches over whole nodes per block at a time, for all sizes together; None: no limit.
    """

    def __init__(self, launches: int | None = None) -> None:
        self.excluded: dict[str, str] = {}  # node -> reason
        self._launches = launches
        self._blocks: dict[str, _PoolBlock] = {}

    def add(self, block: str, nodes: Iterable[str], ends_at: float = float("inf"), job: str = "") -> None:
        """Add a started block with its job ID; its wall time ends at ``ends_at``."""
        named = list(nodes)
        self._blocks[block] = _PoolBlock(block, named, ends_at, [n for n in named if n not in self.excluded], job)

    def remove(self, block: str) -> None:
        """Remove an ended block."""
        self._blocks.pop(block, None)

    def close(self, block: str) -> None:
        """Place no more tasks in ``block``."""
        if block in self._blocks:
            self._blocks[block].closing = True

    def exclude(self, node: str, reason: str) -> None:
        """Place no more tasks on ``node``."""
        self.excluded[node] = reason
        for block in self._blocks.values():
            block.exclude(node)

    def blocks(self) -> tuple[str, ...]:
        """Return the names of the running blocks."""
        return tuple(self._blocks)

    def size(self, block: str) -> int:
        """Return the number of nodes of ``block``, including bad ones."""
        return len(self._blocks[block].nodes)

    def usable(self, block: str) -> list[str]:
        """Return the nodes of ``block`` that are not excluded."""
        return list(self._blocks[block].usable)

    def ends_at(self, block: str) -> float:
        """Return the end of the wall time of ``block`` (monotonic seconds; infinity: never, or unknown)."""
        return self._blocks[block].ends_at

    def takes(self, block: str, now: float, seconds: float) -> bool:
        """Return whether a running launch in ``block`` may get a task: ``seconds`` of wall time are left."""
        found = self._blocks.get(block)
        return found is not None and not found.closing and found.ends_at - now >= seconds

    def free(self, blocks: Iterable[str]) -> int:
        """Return the number of free nodes in ``blocks``."""
        return sum(len(self._blocks[block].free) for block in blocks)

    def idle(self, block: str) -> bool:
        """Return whether nothing runs in ``block``."""
        return not any(self._blocks[block].running.values())

    def capacity(self, size: SizeClass) -> int:
        """Return how many tasks of ``size`` the running blocks can run at a time."""
        return sum(size.capacity(len(b.usable)) for b in self._blocks.values() if not b.closing)

    def place(
        self, size: SizeClass, now: float, seconds: float, avoid: Collection[str] = (), tasks: int = 1
    ) -> Placement | None:
        """Take and return a free place for a launch of tasks of ``size``; None: there is none at present.

        Parameters
        ----------
        size
            Size of the tasks.
        now
            Monotonic seconds.
        seconds
            Wall time (s) that a block must have left for a useful start.
        avoid
            Nodes where the tasks failed before; used only if the block has no other nodes, including busy ones.
        tasks
            Number of tasks for the launch; it gets fewer places if no more are free.
        """
        for block in self._blocks.values():
            if block.closing or block.ends_at - now < seconds:
                continue
            count = min(tasks, size.capacity(len(block.usable)) - block.running.get(size, 0))
            if count < 1:
                continue
            if size.whole:
                found = None if block.count(whole=False) else self._launch(block, size, count, avoid)
                if found is None:
                    continue
                nodes, count = found
                block.launches[size] = block.launches.get(size, 0) + 1
            else:
                if block.count(whole=True) or any(n and s != size for s, n in block.running.items()):
                    continue
                nodes, count = (), 1
            block.take(nodes)
            block.running[size] = block.running.get(size, 0) + count
            return Placement(block.name, nodes, count, block.job)
        return None

    def _launch(
        self, block: _PoolBlock, size: SizeClass, tasks: int, avoid: Collection[str]
    ) -> tuple[tuple[str, ...], int] | None:
        """Return the nodes of a launch of up to ``tasks`` tasks, and the number of tasks that fit."""
        if self._launches is not None and sum(block.launches.values()) >= self._launches:
            return None
        if size.launches is not None and block.launches.get(size, 0) >= size.launches:
            return None
        free = block.free
        # The launch waits for nodes that it need not avoid, unless the block has too few of them.
        if avoid and len(block.usable) - sum(
            n in block.order and n not in self.excluded for n in avoid
        ) >= size.nodes_of(1):
            free = [n for n in block.free if n not in avoid]
        while tasks and size.nodes_of(tasks) > len(free):
            tasks -= 1
        return (tuple(free[: size.nodes_of(tasks)]), tasks) if tasks else None

    def release(self, size: SizeClass, placement: Placement) -> None:
        """Release the place of a launch."""
        block = self._blocks.get(placement.block)
        if block is not None and block.running.get(size, 0) > 0:
            block.give_back(placement.nodes, self.excluded)
            block.running[size] -= placement.tasks
            if size.whole:
                block.launches[size] -= 1
