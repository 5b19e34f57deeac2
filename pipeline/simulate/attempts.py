"""Attempts that run on the simulated cluster: they end well, are asked to leave, or are lost with their nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gfm_pipeline.core.contracts.attempts.records import AttemptReport, ExitCode, ExitRecord
from gfm_pipeline.core.contracts.task import SAVED_FILE
from gfm_pipeline.simulate.clock import Event, SimulatedClock
from gfm_pipeline.simulate.cluster import Cluster
from gfm_pipeline.simulate.ledger import Ledger, Use
from gfm_pipeline.simulate.program_runs import Run

PULSE_SECONDS = 2.0  # between two signs of life of a wrapper
LAUNCH_FAILED = 143  # what a launch line returns that the batch system ended, since a node of it is down
LOST_MANAGER = "ManagerLost: the node of its worker is down"


@dataclass(frozen=True)
class SimulatedEnd:
    """How an attempt ended: what Parsl says of its trouble, and what the wrapper tells."""

    error: str | None
    report: AttemptReport | None


@dataclass
class SimulatedAttempt:
    """One attempt on its nodes.

    Parameters
    ----------
    folder
        Its own; also its name.
    nodes, weight
        What it takes: by name, and in nodes; a part of one where several share it.
    run
        How it goes.
    started, begins
        When its place was taken, and when its program starts (s).
    whole
        Whether it has a launch line of its own.
    over
        Called when it has ended.
    """

    folder: str
    nodes: Sequence[str]
    weight: float
    run: Run
    started: float
    begins: float
    whole: bool
    over: Callable[[SimulatedAttempt, SimulatedEnd], None]
    deadline: float = float("inf")
    shares_launch: bool = False
    ending: Event | None = None
    stuck_since: float | None = None  # since a node of it has failed

    def ran(self, now: float) -> tuple[float, float]:
        """Return the seconds its program took to start, and those it worked."""
        until = now if self.stuck_since is None else self.stuck_since
        ran = max(0.0, min(until - self.begins, self.run.seconds))
        return min(ran, self.run.startup), max(0.0, ran - self.run.startup)


class RunningAttempts:
    """All running attempts, and requests to stop them (`gfm_pipeline.engine.world.Attempts`)."""

    def __init__(self, clock: SimulatedClock, cluster: Cluster, ledger: Ledger, detect_seconds: float) -> None:
        self._clock, self._cluster, self._ledger, self._detect = clock, cluster, ledger, detect_seconds
        self._running: dict[str, SimulatedAttempt] = {}

    def __len__(self) -> int:
        """Return how many run."""
        return len(self._running)

    def begin(self, attempt: SimulatedAttempt) -> None:
        """Let an attempt run."""
        self._running[attempt.folder] = attempt
        self._ledger.taken(attempt.weight)
        self._cluster.enter(attempt.nodes, attempt.folder, lambda: self.node_failed(attempt))
        seconds = min(attempt.run.seconds, attempt.deadline)
        late = attempt.run.seconds > attempt.deadline
        end = partial(self._left, timed_out=True) if late else self._finished
        attempt.ending = self._clock.at(attempt.begins + seconds, partial(end, attempt))
        if any(self._cluster.is_down(node) for node in attempt.nodes):
            self.node_failed(attempt)

    # ---------------------------------------------------------------- what the driver asks

    def heartbeat(self, folder: Path) -> int | None:
        """Return a number that changes while an attempt lives."""
        attempt = self._running.get(str(folder))
        if attempt is None:
            return None
        return int((self._clock.now if attempt.stuck_since is None else attempt.stuck_since) / PULSE_SECONDS)

    def request_stop(self, folder: Path) -> None:
        """Let an attempt save and leave, which takes as long as what it does at the moment."""
        attempt = self._running.get(str(folder))
        if attempt is None or attempt.stuck_since is not None or attempt.ending is None:
            return
        when = self._clock.now + PULSE_SECONDS
        if attempt.ending.when <= when:
            return
        attempt.ending.cancel()
        attempt.ending = self._clock.at(when, lambda: self._left(attempt))

    def end(self, folder: Path, *, wrapper: bool = True) -> bool:  # noqa: ARG002 - both end together
        """End an attempt at once; return whether it ran."""
        attempt = self._running.get(str(folder))
        if attempt is None:
            return False
        self._lose(attempt)
        return True

    def end_all(self, nodes: Sequence[str] | None = None) -> None:
        """End all attempts, or those on any of ``nodes``, whose job is over: nobody hears of it."""
        gone = None if nodes is None else set(nodes)
        for attempt in list(self._running.values()):
            if gone is None or not gone.isdisjoint(attempt.nodes):
                self._lose(attempt)

    def node_failed(self, attempt: SimulatedAttempt) -> None:
        """Take in that a node of an attempt is gone: it hangs until the batch system, or Parsl, notices."""
        if attempt.stuck_since is not None or attempt.folder not in self._running:
            return
        attempt.stuck_since = self._clock.now
        if attempt.ending is not None:
            attempt.ending.cancel()
        attempt.ending = self._clock.after(self._detect, lambda: self._node_lost(attempt))

    # ---------------------------------------------------------------- how attempts end

    def _finished(self, attempt: SimulatedAttempt) -> None:
        run = attempt.run
        self._over(attempt, {Use.STARTUP: run.startup, Use.WORK: run.work}, SimulatedEnd(None, run.finish(run.seconds)))

    def _left(self, attempt: SimulatedAttempt, *, timed_out: bool = False) -> None:
        """Let an attempt save and leave: nothing of its work is done again."""
        startup, work = attempt.ran(self._clock.now)
        saved = None
        if attempt.run.every is not None and work > 0.0:
            saved = attempt.run.reached(work)
            self._save(attempt, saved)
        record = ExitRecord(ExitCode.PREEMPTED, timed_out, startup + work, stopped=not timed_out)
        kept = Use.LOST if attempt.run.every is None else Use.WORK
        self._over(attempt, {Use.STARTUP: startup, kept: work}, SimulatedEnd(None, AttemptReport(record, saved=saved)))

    def _node_lost(self, attempt: SimulatedAttempt) -> None:
        report = None
        if attempt.whole:
            report = AttemptReport(ExitRecord(LAUNCH_FAILED, False, sum(attempt.ran(self._clock.now))))
        self._lose(attempt, SimulatedEnd(None if attempt.whole else LOST_MANAGER, report))

    def _lose(self, attempt: SimulatedAttempt, outcome: SimulatedEnd | None = None) -> None:
        """End an attempt that could not save; what it did since its last checkpoint is done again."""
        startup, work = attempt.ran(self._clock.now)
        kept = attempt.run.kept(work)
        if kept > 0.0:
            self._save(attempt, attempt.run.reached(kept))
        lost = max(0.0, self._clock.now - attempt.begins) - kept - startup
        self._over(attempt, {Use.STARTUP: startup, Use.WORK: kept, Use.LOST: lost}, outcome)

    def _over(self, attempt: SimulatedAttempt, uses: dict[Use, float], outcome: SimulatedEnd | None) -> None:
        del self._running[attempt.folder]
        if attempt.ending is not None:
            attempt.ending.cancel()
        self._cluster.leave(attempt.nodes, attempt.folder)
        uses[Use.STARTUP] += max(0.0, min(self._clock.now, attempt.begins) - attempt.started)
        self._ledger.left(attempt.weight, uses, lingering=attempt.shares_launch)
        if outcome is not None:
            attempt.over(attempt, outcome)

    @staticmethod
    def _save(attempt: SimulatedAttempt, saved: float) -> None:
        (Path(attempt.folder) / SAVED_FILE).write_text(repr(saved), encoding="ascii")
