"""Attempts on the simulated cluster: they end well, stop on request, or are lost with their nodes."""

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

PULSE_SECONDS = 2.0  # interval of a wrapper's heartbeats
LAUNCH_FAILED = 143  # exit code of a launch line that the batch system ended because of a failed node
LOST_MANAGER = "ManagerLost: the node of its worker is down"


@dataclass(frozen=True)
class SimulatedEnd:
    """The end of an attempt: Parsl's error, and the wrapper's report."""

    error: str | None
    report: AttemptReport | None


@dataclass
class SimulatedAttempt:
    """One attempt on its nodes.

    Parameters
    ----------
    folder
        Folder of the attempt; also its name.
    nodes, weight
        Names of its nodes, and its number of nodes; a fraction if tasks share a node.
    run
        The course of the attempt.
    started, begins
        Times (s) at which its place was taken and its program starts.
    whole
        Whether it has its own launch line.
    over
        Called at its end.
    deadline
        Longest time of its program (s).
    shares_launch, fills_place
        Whether it shares a launch, and whether it takes the place of an ended task there.
    launch_lost
        Ends the launch that it shares, with all its tasks, because a node has failed; None: it shares none.
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
    fills_place: bool = False
    launch_lost: Callable[[], None] | None = None
    ending: Event | None = None
    stuck_since: float | None = None  # time at which a node of it failed

    def ran(self, now: float) -> tuple[float, float]:
        """Return the seconds of startup and of work of its program."""
        until = now if self.stuck_since is None else self.stuck_since
        ran = max(0.0, min(until - self.begins, self.run.seconds))
        return min(ran, self.run.startup), max(0.0, ran - self.run.startup)


class RunningAttempts:
    """All running attempts, and requests to stop them (`gfm_pipeline.engine.world.Attempts`)."""

    def __init__(self, clock: SimulatedClock, cluster: Cluster, ledger: Ledger, detect_seconds: float) -> None:
        self._clock, self._cluster, self._ledger, self.detect_seconds = clock, cluster, ledger, detect_seconds
        self._running: dict[str, SimulatedAttempt] = {}

    def __len__(self) -> int:
        """Return the number of running attempts."""
        return len(self._running)

    def begin(self, attempt: SimulatedAttempt) -> None:
        """Start an attempt."""
        self._running[attempt.folder] = attempt
        self._ledger.taken(attempt.weight, held=attempt.fills_place)
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
        """Let an attempt save and stop, after its present action."""
        attempt = self._running.get(str(folder))
        if attempt is None or attempt.stuck_since is not None or attempt.ending is None:
            return
        when = self._clock.now + PULSE_SECONDS
        if attempt.ending.when <= when:
            return
        attempt.ending.cancel()
        attempt.ending = self._clock.at(when, lambda: self._left(attempt))

    def end(self, folder: Path, *, wrapper: bool = True) -> bool:  # noqa: ARG002 - both end together
        """Kill an attempt at once; return whether it ran."""
        attempt = self._running.get(str(folder))
        if attempt is None:
            return False
        self._lose(attempt)
        return True

    def end_all(self, nodes: Sequence[str] | None = None) -> None:
        """End all attempts, or those on ``nodes`` of an ended job, without any report."""
        gone = None if nodes is None else set(nodes)
        for attempt in list(self._running.values()):
            if gone is None or not gone.isdisjoint(attempt.nodes):
                self._lose(attempt)

    def node_failed(self, attempt: SimulatedAttempt) -> None:
        """Record a failed node of an attempt, which hangs until the batch system or Parsl notices."""
        if attempt.stuck_since is not None or attempt.folder not in self._running:
            return
        attempt.stuck_since = self._clock.now
        if attempt.ending is not None:
            attempt.ending.cancel()
        attempt.ending = self._clock.after(self.detect_seconds, lambda: self._node_lost(attempt))

    # ---------------------------------------------------------------- how attempts end

    def _finished(self, attempt: SimulatedAttempt) -> None:
        run = attempt.run
        self._over(attempt, {Use.STARTUP: run.startup, Use.WORK: run.work}, SimulatedEnd(None, run.finish(run.seconds)))

    def _left(self, attempt: SimulatedAttempt, *, timed_out: bool = False) -> None:
        """Let an attempt save and stop: no work is repeated."""
        startup, work = attempt.ran(self._clock.now)
        saved = None
        if attempt.run.every is not None and work > 0.0:
            saved = attempt.run.reached(work)
            self._save(attempt, saved)
        record = ExitRecord(ExitCode.PREEMPTED, timed_out, startup + work, stopped=not timed_out)
        kept = Use.LOST if attempt.run.every is None else Use.WORK
        self._over(attempt, {Use.STARTUP: startup, kept: work}, SimulatedEnd(None, AttemptReport(record, saved=saved)))

    def _node_lost(self, attempt: SimulatedAttempt) -> None:
        if attempt.launch_lost is not None:
            attempt.launch_lost()
            return
        report = None
        if attempt.whole:
            report = AttemptReport(ExitRecord(LAUNCH_FAILED, False, sum(attempt.ran(self._clock.now))))
        self._lose(attempt, SimulatedEnd(None if attempt.whole else LOST_MANAGER, report))

    def _lose(self, attempt: SimulatedAttempt, outcome: SimulatedEnd | None = None) -> None:
        """End an attempt that could not save; the work since its last checkpoint is repeated."""
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
