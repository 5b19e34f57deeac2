"""The nodes of a simulated machine: failures, speed, and running tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gfm_pipeline.simulate.clock import Event, SimulatedClock
from gfm_pipeline.simulate.ledger import Ledger
from gfm_pipeline.simulate.scenario import FailuresModel, StragglersModel

HOUR = 3600.0


@dataclass
class Held:
    """The nodes of a batch job."""

    nodes: list[str]
    died: Callable[[], None]  # called when its first node fails: the job ends with it
    failure: Event | None = None
    up: set[str] = field(default_factory=set)


class Cluster:
    """A machine of nodes of one kind.

    Parameters
    ----------
    clock, ledger
        Time, and the account of node time.
    count, gpus
        Number of nodes, and of GPUs per node.
    failures, stragglers
        Assumptions about the nodes.
    seed
        Seed of failures and of slow nodes.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        ledger: Ledger,
        count: int,
        gpus: int,
        failures: FailuresModel,
        stragglers: StragglersModel,
        seed: int,
    ) -> None:
        self.failed = 0
        self.changes = 0  # number of changes of jobs' nodes
        self.known_bad: dict[str, str] = {}
        self._clock, self._ledger, self._failures = clock, ledger, failures
        self._random = random.Random(f"failures {seed}")
        self._free = [f"n{number:05d}" for number in range(1, count + 1)]
        slow = random.Random(f"stragglers {seed}")
        self._slow = {node: stragglers.factor for node in self._free if slow.random() < stragglers.share}
        self._down: set[str] = set()
        self._held: dict[str, Held] = {}
        self._occupants: dict[str, dict[str, Callable[[], None]]] = {}
        per_gpu = 0.0 if failures.mean_hours is None else 1.0 / (failures.mean_hours * HOUR * failures.at_gpus)
        self.rate = per_gpu * max(1, gpus)  # failures per node and second

    @property
    def free(self) -> int:
        """Number of nodes without a job."""
        return len(self._free)

    def hold(self, job: str, count: int, died: Callable[[], None]) -> tuple[str, ...]:
        """Give nodes to a job, and return their names; ``died`` is called when the job ends with its first node."""
        nodes, self._free = self._free[:count], self._free[count:]
        held = self._held[job] = Held(nodes, died, up=set(nodes))
        self._ledger.held(count)
        self.changes += 1
        self._next_failure(held)
        return tuple(nodes)

    def let_go(self, job: str) -> None:
        """Take back the nodes of a job; failed nodes go to repair and are replaced."""
        held = self._held.pop(job)
        self.changes += 1
        if held.failure is not None:
            held.failure.cancel()
        self._ledger.let_go(len(held.nodes), len(held.nodes) - len(held.up))
        self._down -= set(held.nodes)
        self._free = held.nodes + self._free  # the next job gets the same nodes: slow nodes stay slow

    def slowness(self, nodes: Iterable[str]) -> float:
        """Return the slowdown of work over all these nodes: the slowest node decides."""
        if not self._slow:
            return 1.0
        return max((self._slow.get(node, 1.0) for node in nodes), default=1.0)

    def is_down(self, node: str) -> bool:
        """Return whether a node has failed."""
        return node in self._down

    def up_nodes(self) -> list[str]:
        """Return the working nodes of all jobs."""
        return [node for held in self._held.values() for node in held.nodes if node not in self._down]

    def enter(self, nodes: Sequence[str], name: str, failed: Callable[[], None]) -> None:
        """Register a task on nodes; ``failed`` is called when one of them fails."""
        for node in nodes:
            self._occupants.setdefault(node, {})[name] = failed

    def leave(self, nodes: Sequence[str], name: str) -> None:
        """Remove a task from its nodes."""
        for node in nodes:
            self._occupants.get(node, {}).pop(name, None)

    def _next_failure(self, held: Held) -> None:
        if not self.rate or not held.up:
            return
        seconds = self._random.expovariate(self.rate * len(held.up))
        held.failure = self._clock.after(seconds, lambda: self._fail(held))

    def _fail(self, held: Held) -> None:
        node = held.nodes[self._random.randrange(len(held.nodes))]
        while node not in held.up:
            node = held.nodes[self._random.randrange(len(held.nodes))]
        self.failed += 1
        held.up.discard(node)
        self._down.add(node)
        self._ledger.down()
        for failed in list(self._occupants.get(node, {}).values()):
            failed()
        if node == held.nodes[0]:
            held.died()
            return
        self._clock.after(self._failures.detect_seconds, partial(self._noticed, node))
        self._next_failure(held)

    def _noticed(self, node: str) -> None:
        self.known_bad[node] = "it is down"
