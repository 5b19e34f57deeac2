"""Decide, do, record: carries out what `decide` asks for, one event at a time."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gfm_pipeline.apps.contracts.task import SPEC_FILE, STOP_FILE, WRAPPER_FILE
from gfm_pipeline.campaign.events import (
    Action,
    Candidate,
    Cause,
    Event,
    LauncherRestarted,
    StageOpened,
    TaskEnded,
    TaskStarted,
    WaveProposed,
    to_entry,
)
from gfm_pipeline.campaign.journal import Journal
from gfm_pipeline.campaign.state import CampaignState, TaskStatus
from gfm_pipeline.common.errors import IntegrityError, SchedulerUnavailable, StageFailed, Stopped, StorageError
from gfm_pipeline.common.faultpoints import FaultPoint, hand_down, reach
from gfm_pipeline.common.publish import storage_errors, write_record
from gfm_pipeline.engine.artefacts import lost_artefacts
from gfm_pipeline.engine.decide import decide
from gfm_pipeline.engine.leftovers import end_attempt
from gfm_pipeline.engine.outcome import Ended, classify
from gfm_pipeline.engine.retries import delay, micro_batch, next_action
from gfm_pipeline.engine.stages.search import LAG, objective_of
from gfm_pipeline.engine.step import Context, Proposal, Step, TaskRequest
from gfm_pipeline.engine.watchdog import Watchdog
from gfm_pipeline.execution.launcher import Job, JobEnd, Launcher
from gfm_pipeline.search.proposer import Told, first_design, initial_count, propose

GRACE_SHARE = 0.75  # of the time to stop in, after which a program is killed that does not leave
RESTARTS = 3  # of Parsl in a row, without a task that ended in between


class Watcher(Protocol):
    """Hears every event after it was recorded, and a tick now and then; shows progress."""

    def event(self, event: Event, state: CampaignState) -> None:
        """Show an event."""

    def tick(self, state: CampaignState) -> None:
        """Show that the campaign lives."""


@dataclass(frozen=True)
class Running:
    """An attempt in flight."""

    request: TaskRequest
    attempt: int
    folder: Path
    started: float  # monotonic


class Driver:
    """Runs a campaign to its end under the campaign's lock.

    Parameters
    ----------
    context
        Settings and inputs.
    state
        State folded from the journal.
    journal
        The journal, open.
    launcher
        Where tasks run.
    watcher
        Who is told.
    stop
        Set from a signal handler: finish politely.
    """

    def __init__(
        self,
        context: Context,
        state: CampaignState,
        journal: Journal,
        launcher: Launcher,
        watcher: Watcher,
        stop: threading.Event,
    ) -> None:
        self.context = context
        self.state = state
        self.journal = journal
        self.launcher = launcher
        self.watcher = watcher
        self.stop = stop
        self._limits = context.workflow.limits
        self._running: dict[tuple[str, str], Running] = {}
        self._given_up: dict[tuple[str, str, int], float] = {}  # attempts whose futures may yet resolve, since when
        self._not_before: dict[tuple[str, str], float] = {}  # tasks that wait before they are tried again
        self._watchdog = Watchdog(self._limits.lost_seconds)
        self._restarts = 0
        self._draining = False
        self._refused: str | None = None  # why the disk refused a task

    def record(self, event: Event) -> None:
        """Journal an event, fold it, show it; in this order."""
        kind, data = to_entry(event)
        entry = self.journal.append(kind, data)
        self.state.apply(event, entry.t)
        self.watcher.event(event, self.state)

    def run(self) -> None:
        """Drive the campaign to its end.

        Raises
        ------
        StageFailed
            When a stage cannot go on.
        Stopped
            When asked to stop; everything is saved.
        StorageError
            When the disk refuses; a pause, like a stop.
        SchedulerUnavailable
            When Parsl cannot be kept running.
        IntegrityError
            When an artefact that is needed is not what was published.
        """
        self.context.paths.cancel.unlink(missing_ok=True)  # meant for an earlier driver
        self._settle_orphans()
        self._reopen_failed()
        while True:
            try:
                step = self._settle()
            except IntegrityError:
                self._drain()
                raise
            if step.finished:
                return
            if step.failure is not None:
                self._drain()
                raise StageFailed(step.failure, "Its log is named in `gfm-pipeline status`.")
            if self._refused is not None:
                self._drain()
                raise StorageError(f"A task could not write: {self._refused}")
            if self.stop.is_set():
                self._drain()
                raise Stopped("Stopped; every finished result and checkpoint is kept.")
            self._start_some(step)
            if not (self._running or self._given_up or self._not_before):
                raise RuntimeError("nothing runs and nothing can be started: a defect of the decisions")
            self._wait(1.0)

    def _settle(self) -> Step:
        """Record decisions and proposals until only tasks are left to do."""
        while True:
            step = decide(self.context, self.state)
            free = max(0, self.context.slots - len(self._running)) + len(self._not_before)
            events = step.events or lost_artefacts(self.context, self.state, step, free)
            if events:
                for event in events:
                    self.record(event)
            elif step.proposal is not None and not self.stop.is_set():
                # Start what can start first: proposing takes a second or two.
                self._start_some(step)
                self.record(self._propose(step.proposal))
            else:
                return step

    def _propose(self, wanted: Proposal) -> WaveProposed:
        """Ask for a wave of candidates, from the results its lag allows."""
        workflow = self.context.workflow
        stage = self.state.stages[wanted.key]
        space = workflow.search.space.compile()
        taken = [c.settings for c in stage.candidates().values()]
        initial = first_design(space, initial_count(space, workflow.search.candidates), workflow.seed)
        known = [c for c in stage.candidates().values() if c.wave <= wanted.wave - 1 - LAG]
        if len(taken) + wanted.size <= len(initial):
            chosen, origin, told = initial[len(taken) : len(taken) + wanted.size], "first design", 0
        else:
            results = [Told(c.settings, objective_of(stage, c.name, 0)) for c in known]
            head = initial[len(taken) :]
            rest = wanted.size - len(head)
            chosen = head + propose(space, results, taken + head, rest, workflow.seed * 1009 + wanted.wave)
            origin, told = "DeepHyper CBO", len(results)
        candidates = tuple(
            Candidate(f"c{len(taken) + i:05d}", wanted.wave, settings) for i, settings in enumerate(chosen)
        )
        reach(FaultPoint.PROPOSAL_MADE)
        return WaveProposed(wanted.key, wanted.wave, candidates, origin, told)

    def _start_some(self, step: Step) -> None:
        """Start the most urgent tasks there is room for; an attempt given up may still hold its slot."""
        now = time.monotonic()
        self._not_before = {task: when for task, when in self._not_before.items() if when > now}
        ready = [r for r in step.tasks if (r.key, r.name) not in self._not_before]
        for request in ready[: max(0, self.context.slots - len(self._running) - len(self._given_up))]:
            self._start(request)

    def _start(self, request: TaskRequest) -> None:
        """Write the spec, journal the start, hand it to the launcher."""
        stage = self.state.stages[request.key]
        known = stage.tasks.get(request.name)
        attempt = 1 if known is None else known.attempt + 1
        paths = self.context.paths.stage(request.stage, request.key)
        folder = paths.attempt(request.name, attempt)
        spec = request.spec
        if hasattr(spec, "previous_attempts"):
            earlier = tuple(str(paths.attempt(request.name, k)) for k in range(1, attempt))
            spec = replace(spec, previous_attempts=earlier)
        if known is not None and hasattr(spec, "micro_batch"):
            spec = replace(spec, micro_batch=micro_batch(spec.optimiser.batch_size, known.counted))
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            reach(FaultPoint.TASK_FOLDER)
            hand_down(folder)
            write_record(folder / SPEC_FILE, spec)
        reach(FaultPoint.TASK_SPEC)
        self.record(TaskStarted(request.key, request.name, attempt))
        reach(FaultPoint.TASK_RECORDED)
        self._running[request.key, request.name] = Running(request, attempt, folder, time.monotonic())
        limits = self._limits
        job = Job(
            request.stage,
            str(request.program),
            folder,
            limits.task_hours * 3600.0,
            limits.silence_seconds,
            limits.stop_seconds * GRACE_SHARE,
        )
        self.launcher.submit(job, (request.key, request.name, attempt))
        reach(FaultPoint.TASK_SUBMITTED)

    def _wait(self, seconds: float) -> None:
        """Take in ended attempts; return when at least one came or time is up."""
        try:
            self._ended(self.launcher.ended.get(timeout=seconds))
            while True:
                self._ended(self.launcher.ended.get_nowait())
        except queue.Empty:
            pass
        self._find_lost()
        self._check_launcher()
        if self.context.paths.cancel.exists():
            self.stop.set()
        self.watcher.tick(self.state)

    def _ended(self, end: JobEnd) -> None:
        key, name, attempt = end.token
        running = self._running.get((key, name))
        if running is None or running.attempt != attempt:
            self._given_up.pop(end.token, None)  # given up as lost earlier; only now is its slot free
            return
        ended = classify(running.folder, end.error)
        if end.error is not None:  # nothing of it may run on beside the next attempt
            end_attempt(running.folder, wrapper=ended.cause in (Cause.WORKER_LOST, Cause.NODE_FAILURE))
        elif ended.cause is Cause.DRIVER_LOST:
            ended = replace(ended, cause=Cause.TROUBLE, reason="its wrapper ended without a record")
        elif ended.cause is Cause.STOPPED and not (running.folder / STOP_FILE).exists():
            ended = replace(ended, cause=Cause.KILLED, reason=f"{ended.reason}, though not by this driver")
        self._close(running, ended)

    def _close(self, running: Running, ended: Ended) -> None:
        """Record how an attempt ended and what follows."""
        request = running.request
        del self._running[request.key, request.name]
        self._watchdog.forget((request.key, request.name))
        shrinkable = False
        if hasattr(request.spec, "micro_batch"):
            size = request.spec.optimiser.batch_size
            shrinkable = (micro_batch(size, self.state.stages[request.key].tasks[request.name].counted) or size) > 1
        self._record_end(
            request.key,
            request.name,
            running.attempt,
            ended,
            shrinkable=shrinkable,
            seconds=ended.seconds or time.monotonic() - running.started,
        )

    def _find_lost(self) -> None:
        """Give up attempts whose wrapper shows no life: a Parsl future that never resolves must not hang us."""
        now = time.monotonic()
        for (key, name), running in list(self._running.items()):
            if self._watchdog.silent((key, name), running.folder / WRAPPER_FILE, now):
                end_attempt(running.folder)
                ended = classify(running.folder, f"ManagerLost: no sign of life for {self._limits.lost_seconds:.0f} s")
                self._given_up[key, name, running.attempt] = now
                self._close(running, ended)

    def _check_launcher(self) -> None:
        """Restart Parsl when nothing submitted would ever run; its own executor waits for ever then."""
        stuck = [t for t in self._given_up.values() if time.monotonic() - t > self._limits.lost_seconds]
        trouble = self.launcher.trouble() or ("Parsl never resolved the future of a lost task" if stuck else None)
        if trouble is None:
            return
        for running in list(self._running.values()):
            end_attempt(running.folder)
            self._close(running, classify(running.folder, f"InterchangeLost: {trouble}"))
        self._given_up.clear()
        if self._draining:
            return  # nothing will be started any more
        self._restarts += 1
        if self._restarts > RESTARTS:
            raise SchedulerUnavailable(
                f"{trouble}, after {RESTARTS} restarts in a row.", f"Parsl's logs are in {self.context.paths.parsl}."
            )
        self.launcher.restart()
        self.record(LauncherRestarted(trouble))

    def _drain(self) -> None:
        """Ask everything that runs to save and leave, and take in how it ended."""
        self._draining = True
        for running in self._running.values():
            (running.folder / STOP_FILE).touch()
        give_up = time.monotonic() + self._limits.stop_seconds
        while self._running and time.monotonic() < give_up:
            self._wait(0.5)
        for running in list(self._running.values()):
            end_attempt(running.folder)
            ended = classify(running.folder)
            if ended.cause is Cause.DRIVER_LOST:
                ended = replace(ended, cause=Cause.STOPPED, reason="did not stop in time; its last checkpoint is kept")
            self._close(running, ended)

    def abandon(self) -> None:
        """End everything that runs at once, recording nothing: the next driver finds what was left."""
        for running in list(self._running.values()):
            end_attempt(running.folder)
        self.launcher.kill()

    def _settle_orphans(self) -> None:
        """Adopt what finished after an earlier driver died; end the rest, and give it a new attempt."""
        for stage in self.state.stages.values():
            for task in list(stage.tasks.values()):
                if task.status is not TaskStatus.RUNNING:
                    continue
                folder = self.context.paths.stage(stage.stage, stage.key).attempt(task.name, task.attempt)
                end_attempt(folder)
                reach(FaultPoint.DRIVER_ORPHAN)
                self._record_end(stage.key, task.name, task.attempt, classify(folder), adopted=True)

    def _record_end(
        self,
        key: str,
        name: str,
        attempt: int,
        ended: Ended,
        *,
        seconds: float | None = None,
        shrinkable: bool = True,
        adopted: bool = False,
    ) -> None:
        reach(FaultPoint.TASK_CLASSIFIED)
        task = self.state.stages[key].tasks[name]
        action = next_action(ended.cause, task.counted, ended.saved, can_shrink=shrinkable)
        self.record(
            TaskEnded(
                key,
                name,
                attempt,
                ended.outcome,
                ended.seconds if seconds is None else seconds,
                ended.reason,
                ended.result,
                adopted=adopted,
                cause=ended.cause,
                action=action,
                saved=ended.saved,
                host=ended.host,
            )
        )
        if action is Action.ACCEPT:
            self._restarts = 0
        elif action is Action.PAUSE:
            self._refused = ended.reason
        elif action is Action.RETRY:
            self._not_before[key, name] = time.monotonic() + delay(task.counted)

    def _reopen_failed(self) -> None:
        """Give a stage that failed in an earlier run another chance: the cause may be mended."""
        for name, key in list(self.state.current.items()):
            stage = self.state.stages[key]
            if stage.failure is not None:
                self.record(StageOpened(name, key, stage.settings, stage.inputs, stage.slots))
