"""Which nodes and slots are free, and which task goes where: pure bookkeeping, with the clock handed in.

Placement is ours. Parsl's own backlog of multi-node tasks loses tasks of mixed sizes, knows no bad nodes and shares
no allocation between executors; so nothing is ever submitted that has no free place, and tasks of whole nodes
are launched on nodes named here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from gfm_pipeline.execution.sizes import SizeClass


@dataclass(frozen=True)
class Placement:
    """Where a task goes: the block, and the nodes by name (none: a slot of the block's worker pools)."""

    block: str
    nodes: tuple[str, ...] = ()


@dataclass
class _Block:
    name: str
    nodes: list[str]  # in the order the batch system names them: neighbours are near each other
    ends_at: float
    closing: bool = False
    busy: set[str] = field(default_factory=set)
    running: dict[SizeClass, int] = field(default_factory=dict)

    def count(self, *, whole: bool) -> int:
        return sum(n for size, n in self.running.items() if size.whole is whole)


class NodePool:
    """Places tasks on the nodes of one or several blocks (allocations of nodes).

    Tasks that share nodes and tasks of whole nodes never run in a block at the same time, nor do sharing tasks of two
    sizes: nobody but Parsl knows on which node a sharing task is.
    """

    def __init__(self) -> None:
        self.excluded: dict[str, str] = {}  # node -> reason
        self._blocks: dict[str, _Block] = {}

    def add(self, block: str, nodes: Iterable[str], ends_at: float = float("inf")) -> None:
        """Take in a block that has come up; ``ends_at`` is when its wall time is over (monotonic seconds)."""
        self._blocks[block] = _Block(block, list(nodes), ends_at)

    def remove(self, block: str) -> None:
        """Forget a block that has ended."""
        self._blocks.pop(block, None)

    def close(self, block: str) -> None:
        """Place nothing more in ``block``."""
        if block in self._blocks:
            self._blocks[block].closing = True

    def exclude(self, node: str, reason: str) -> None:
        """Place nothing more on ``node``."""
        self.excluded[node] = reason

    def blocks(self) -> tuple[str, ...]:
        """Return the names of the blocks that are up."""
        return tuple(self._blocks)

    def usable(self, block: str) -> list[str]:
        """Return the nodes of ``block`` that are not excluded."""
        return [n for n in self._blocks[block].nodes if n not in self.excluded]

    def ends_at(self, block: str) -> float:
        """Return when the wall time of ``block`` is over (monotonic seconds; infinity: never, or unknown)."""
        return self._blocks[block].ends_at

    def idle(self, block: str) -> bool:
        """Return whether nothing runs in ``block``."""
        return not any(self._blocks[block].running.values())

    def capacity(self, size: SizeClass) -> int:
        """Return how many tasks of ``size`` the blocks that are up can run at a time."""
        return sum(size.capacity(len(self.usable(b.name))) for b in self._blocks.values() if not b.closing)

    def place(self, size: SizeClass, now: float, seconds: float, avoid: Collection[str] = ()) -> Placement | None:
        """Return a free place for a task of ``size``, taken from now on; None: there is none at present.

        Parameters
        ----------
        size
            Of the task.
        now
            Monotonic seconds.
        seconds
            What must be left of a block's wall time for a start to be worth it.
        avoid
            Nodes where the task failed before; taken only when the block has no others, busy ones included.
        """
        for block in self._blocks.values():
            if block.closing or block.ends_at - now < seconds:
                continue
            usable = self.usable(block.name)
            if sum(block.running.get(s, 0) for s in block.running if s == size) >= size.capacity(len(usable)):
                continue
            if size.whole:
                nodes = None if block.count(whole=False) else self._free(block, size.shape.nodes, usable, avoid)
                if nodes is None:
                    continue
            else:
                if block.count(whole=True) or any(n and s != size for s, n in block.running.items()):
                    continue
                nodes = ()
            block.busy |= set(nodes)
            block.running[size] = block.running.get(size, 0) + 1
            return Placement(block.name, nodes)
        return None

    @staticmethod
    def _free(block: _Block, count: int, usable: list[str], avoid: Collection[str]) -> tuple[str, ...] | None:
        liked = [n for n in usable if n not in avoid]
        pool = liked if len(liked) >= count else usable  # waits for a node it likes, unless there are too few
        free = [n for n in pool if n not in block.busy]
        return tuple(free[:count]) if len(free) >= count else None

    def release(self, size: SizeClass, placement: Placement) -> None:
        """Give back what a task had taken."""
        block = self._blocks.get(placement.block)
        if block is not None and block.running.get(size, 0) > 0:
            block.busy -= set(placement.nodes)
            block.running[size] -= 1
