"""Use of node time: work, lost work, or idle time by cause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from gfm_pipeline.core.strenum import StrEnum

FULL = 0.9  # of the nodes that may be busy at a time: from the first to the last such moment is the steady part


class Use(StrEnum):
    """What node time is spent on."""

    WORK = "work"
    STARTUP = "startup"  # of programs, before they do what they are for
    LOST = "lost"  # not saved when a node or a job ended: done again
    # idle, and why:
    DRIVER = "driver"  # a task has ended, and the driver has not come to it yet
    LAUNCHES = "launches"  # the pause that the batch system wants between two launches
    NO_PROPOSAL = "no proposal"  # the search waits for results before it proposes more
    TAIL = "tail"  # a stage has nothing more to start, and its last tasks run
    ROOM = "room"  # tasks wait, but none fits into what is free, or no further launch is allowed
    RESTART = "restart"  # tasks wait for a while before they are tried again
    HELD = "shared launch"  # the other tasks of a launch have not ended
    SPARE = "spare"
    DOWN = "down"
    JOB_START = "job start"  # until workers are there
    JOB_END = "job end"  # after the driver has taken its leave


BUSY = (Use.WORK, Use.STARTUP, Use.LOST)
IDLE = tuple(use for use in Use if use not in BUSY)


@dataclass(frozen=True)
class Stretch:
    """Some time in which nothing changed: seconds, nodes at work, nodes that may be, nodes held."""

    seconds: float
    busy: float
    usable: float
    held: int


class Ledger:
    """Adds up node time.

    Parameters
    ----------
    now
        Time (s).
    spare_share
        Of the nodes of a job, those that are kept for others that fail.
    """

    def __init__(self, now: Callable[[], float], spare_share: float) -> None:
        self.seconds: defaultdict[Use, float] = defaultdict(float)  # node seconds
        self.stretches: list[Stretch] = []
        self.idle_for = Use.JOB_START  # why nodes are idle that no ended task has just left
        self._now, self._spare_share = now, spare_share
        self._since = now()
        self._held = self._down = 0
        self._busy = self._lingering = self._freed = 0.0

    @property
    def busy(self) -> float:
        """Nodes at work."""
        return self._busy

    @property
    def idle(self) -> float:
        """Nodes that could be at work and are not."""
        return max(0.0, self._held - self._down - self._busy - self._lingering)

    @property
    def spare(self) -> int:
        """Nodes kept for those that fail, and not needed yet."""
        return max(0, int(self._held * self._spare_share) - self._down)

    def held(self, nodes: int) -> None:
        """Take in that a job has begun."""
        self._settle()
        self._held += nodes
        self.idle_for = Use.JOB_START

    def let_go(self, nodes: int, down: int) -> None:
        """Take in that a job has ended, ``down`` of whose nodes had failed."""
        self._settle()
        self._held -= nodes
        self._down -= down
        self._freed = 0.0

    def down(self) -> None:
        """Take in that a node has failed."""
        self._settle()
        self._down += 1

    def taken(self, nodes: float) -> None:
        """Take in that a task begins on so many nodes, or on a part of one."""
        self._settle()
        self._busy += nodes
        self._freed = max(0.0, self._freed - nodes)

    def left(self, nodes: float, uses: dict[Use, float], *, lingering: bool = False) -> None:
        """Take in that a task has ended, and how many seconds it spent on what.

        ``lingering``: its nodes are held by the launch it shared with others.
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
        """Take in that the nodes of tasks that ended earlier are free, since the launch they shared is over."""
        self._settle()
        self._lingering -= nodes
        self._freed += nodes

    def waits(self, idle_for: Use) -> None:
        """Take in that the driver has done all it can, and why nodes are idle all the same."""
        self._settle()
        self._freed, self.idle_for = 0.0, idle_for

    def close(self) -> None:
        """Add up to now."""
        self._settle()

    def _settle(self) -> None:
        now = self._now()
        passed, self._since = now - self._since, now
        if passed <= 0.0 or not self._held:
            return
        idle = self.idle
        freed = min(idle, self._freed)
        spare = min(idle - freed, float(self.spare))
        self.seconds[Use.DOWN] += self._down * passed
        self.seconds[Use.HELD] += self._lingering * passed
        self.seconds[Use.DRIVER] += freed * passed
        self.seconds[Use.SPARE] += spare * passed
        self.seconds[self.idle_for] += (idle - freed - spare) * passed
        usable = self._held - int(self._held * self._spare_share)
        self.stretches.append(Stretch(passed, self._busy, usable, self._held))

    # ---------------------------------------------------------------- what came of it

    def total(self) -> float:
        """Return the node seconds of all jobs."""
        return sum(s.seconds * s.held for s in self.stretches)

    def occupancy(self) -> float:
        """Return the share of all node time at which nodes were at work, done in vain or not."""
        total = self.total()
        return sum(s.seconds * s.busy for s in self.stretches) / total if total else 0.0

    def steady(self) -> float | None:
        """Return that share of the nodes that are not spare, from the first full moment to the last; None: none was."""
        full = [n for n, s in enumerate(self.stretches) if s.busy >= FULL * s.usable]
        if not full:
            return None
        part = self.stretches[full[0] : full[-1] + 1]
        return min(1.0, sum(s.seconds * s.busy for s in part) / sum(s.seconds * s.usable for s in part))
