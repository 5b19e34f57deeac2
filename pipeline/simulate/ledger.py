"""The account of node time: work, lost work, or idle time by cause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from gfm_pipeline.core.strenum import StrEnum

FULL = 0.9  # share of usable nodes that are busy; the steady part is from the first to the last such moment


class Use(StrEnum):
    """Uses of node time."""

    WORK = "work"
    STARTUP = "startup"  # of programs, before their work
    LOST = "lost"  # unsaved at the end of a node or a job: repeated
    # idle, by reason:
    DRIVER = "driver"  # a task has ended, but the driver has not yet processed its end
    LAUNCHES = "launches"  # the batch system's pause between two launches
    NO_PROPOSAL = "no proposal"  # the search waits for results before it proposes more
    TAIL = "tail"  # a stage has no more tasks to start, and its last tasks run
    ROOM = "room"  # tasks wait, but none fits the free nodes, or no further launch is allowed
    RESTART = "restart"  # tasks wait before their next attempt
    HELD = "shared launch"  # the other tasks of a launch have not ended
    SPARE = "spare"
    DOWN = "down"
    JOB_START = "job start"  # until workers have started
    JOB_END = "job end"  # after the driver has stopped


BUSY = (Use.WORK, Use.STARTUP, Use.LOST)
IDLE = tuple(use for use in Use if use not in BUSY)


@dataclass(frozen=True)
class Stretch:
    """A period without changes: seconds, busy nodes, usable nodes, held nodes, number of jobs begun so far."""

    seconds: float
    busy: float
    usable: float
    held: int
    job: int = 0


class Ledger:
    """Adds up node time.

    Parameters
    ----------
    now
        Time (s).
    spare_share
        Share of a job's nodes that are kept as spares.
    """

    def __init__(self, now: Callable[[], float], spare_share: float) -> None:
        self.seconds: defaultdict[Use, float] = defaultdict(float)  # node seconds
        self.stretches: list[Stretch] = []
        self.idle_for = Use.JOB_START  # why nodes are idle, except nodes of tasks that have just ended
        self._now, self._spare_share = now, spare_share
        self._since = now()
        self._held = self._down = self._jobs = 0
        self._busy = self._lingering = self._freed = 0.0

    @property
    def busy(self) -> float:
        """Number of busy nodes."""
        return self._busy

    @property
    def idle(self) -> float:
        """Number of usable but idle nodes."""
        return max(0.0, self._held - self._down - self._busy - self._lingering)

    @property
    def spare(self) -> int:
        """Number of unused spare nodes."""
        return max(0, int(self._held * self._spare_share) - self._down)

    def held(self, nodes: int) -> None:
        """Record the start of a job."""
        self._settle()
        self._held += nodes
        self._jobs += 1
        self.idle_for = Use.JOB_START

    def let_go(self, nodes: int, down: int) -> None:
        """Record the end of a job with ``down`` failed nodes."""
        self._settle()
        self._held -= nodes
        self._down -= down
        self._freed = 0.0

    def down(self) -> None:
        """Record a failed node."""
        self._settle()
        self._down += 1

    def taken(self, nodes: float, *, held: bool = False) -> None:
        """Record the start of a task on ``nodes`` nodes, or on a fraction of a node.

        ``held``: its shared launch held them already.
        """
        self._settle()
        self._busy += nodes
        if held:
            self._lingering -= nodes
        else:
            self._freed = max(0.0, self._freed - nodes)

    def left(self, nodes: float, uses: dict[Use, float], *, lingering: bool = False) -> None:
        """Record the end of a task, and its seconds by use.

        ``lingering``: its shared launch still holds its nodes.
        """
        self._settle()
        self._busy -= nodes
        if lingering:
            self._lingering += nodes
        else:
            self._freed += nodes
        for use, seconds in uses.items():
            self.seconds[use] += nodes * seconds

    def launch_over(self, nodes: float) -> None:
        """Record the end of a shared launch, which frees the nodes of its ended tasks."""
        self._settle()
        self._lingering -= nodes
        self._freed += nodes

    def launch_lost(self, nodes: float) -> None:
        """Record a shared launch that ended with its job."""
        self._settle()
        self._lingering -= nodes

    def waits(self, idle_for: Use) -> None:
        """Record that the driver has nothing more to do, and why nodes are still idle."""
        self._settle()
        self._freed, self.idle_for = 0.0, idle_for

    def close(self) -> None:
        """Add the time until now."""
        self._settle()

    def _settle(self) -> None:
        now = self._now()
        passed, self._since = now - self._since, now
        if passed <= 0.0 or not self._held:
            return
        idle = self.idle
        freed = min(idle, self._freed)
        spare = min(idle - freed, float(self.spare))
        # Until the batch system finds a failed node, the tasks there hold it: it is counted once.
        self.seconds[Use.DOWN] += max(0.0, min(self._down, self._held - self._busy - self._lingering)) * passed
        self.seconds[Use.HELD] += self._lingering * passed
        self.seconds[Use.DRIVER] += freed * passed
        self.seconds[Use.SPARE] += spare * passed
        self.seconds[self.idle_for] += (idle - freed - spare) * passed
        usable = self._held - int(self._held * self._spare_share)
        self.stretches.append(Stretch(passed, self._busy, usable, self._held, self._jobs))

    # ---------------------------------------------------------------- what came of it

    def total(self) -> float:
        """Return the node-seconds of all jobs."""
        return sum(s.seconds * s.held for s in self.stretches)

    def occupancy(self) -> float:
        """Return the busy share of all node time, including lost work."""
        total = self.total()
        return sum(s.seconds * s.busy for s in self.stretches) / total if total else 0.0

    def steady(self) -> float | None:
        """Return the busy share of nodes except spares, from the first to the last full moment of each job.

        None if no job was ever full.
        """
        part: list[Stretch] = []
        for _, stretches in groupby(self.stretches, key=lambda s: s.job):
            of_job = list(stretches)
            full = [n for n, s in enumerate(of_job) if s.busy >= FULL * s.usable]
            part += of_job[full[0] : full[-1] + 1] if full else []
        if not part:
            return None
        return min(1.0, sum(s.seconds * s.busy for s in part) / sum(s.seconds * s.usable for s in part))
