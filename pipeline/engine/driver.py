"""Decide, do, record: carries out what `decide` asks for, one event at a time."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gfm_pipeline.apps.contracts.task import HEARTBEAT_FILE, SPEC_FILE, STOP_FILE
from gfm_pipeline.campaign.events import (
    Candidate,
    Event,
    Outcome,
    StageOpened,
    TaskEnded,
    TaskStarted,
    WaveProposed,
    to_entry,
)
from gfm_pipeline.campaign.journal import Journal
from gfm_pipeline.campaign.state import CampaignState, TaskStatus
from gfm_pipeline.common.errors import StageFailed, Stopped, StorageError
from gfm_pipeline.common.publish import storage_errors, write_record
from gfm_pipeline.engine.decide import decide
from gfm_pipeline.engine.outcome import classify
from gfm_pipeline.engine.stages.search import LAG, objective_of
from gfm_pipeline.engine.step import Context, Proposal, Step, TaskRequest
from gfm_pipeline.execution.launcher import Job, JobEnd, Launcher
from gfm_pipeline.search.proposer import Told, first_design, initial_count, propose

STOP_SECONDS = 60.0  # how long running tasks may take to save a checkpoint
LOST_SECONDS = 120.0  # a task whose wrapper shows no life for so long is lost, whatever Parsl says


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
    started: float


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
        self._running: dict[tuple[str, str], Running] = {}
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
        """
        self._settle_orphans()
        self._reopen_failed()
        while True:
            step = self._settle()
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
            for request in step.tasks[: max(0, self.context.slots - len(self._running))]:
                self._start(request)
            if not self._running:
                raise RuntimeError("nothing runs and nothing can be started: a defect of the decisions")
            self._wait(1.0)

    def _settle(self) -> Step:
        """Record decisions and proposals until only tasks are left to do."""
        while True:
            step = decide(self.context, self.state)
            if step.events:
                for event in step.events:
                    self.record(event)
            elif step.proposal is not None and not self.stop.is_set():
                # Start what can start first: proposing takes a second or two.
                for request in step.tasks[: max(0, self.context.slots - len(self._running))]:
                    self._start(request)
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
        return WaveProposed(wanted.key, wanted.wave, candidates, origin, told)

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
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_record(folder / SPEC_FILE, spec)
        self.record(TaskStarted(request.key, request.name, attempt))
        deadline = self.context.workflow.limits.task_hours * 3600.0
        self._running[request.key, request.name] = Running(request, attempt, folder, time.time())
        job = Job(request.stage, str(request.program), folder, deadline)
        self.launcher.submit(job, (request.key, request.name, attempt))

    def _wait(self, seconds: float) -> None:
        """Take in ended attempts; return when at least one came or time is up."""
        try:
            self._ended(self.launcher.ended.get(timeout=seconds))
            while True:
                self._ended(self.launcher.ended.get_nowait())
        except queue.Empty:
            pass
        self._find_lost()
        self.watcher.tick(self.state)

    def _ended(self, end: JobEnd) -> None:
        key, name, attempt = end.token
        running = self._running.get((key, name))
        if running is None or running.attempt != attempt:
            return  # given up as lost earlier; its attempt folder is not used any more
        del self._running[key, name]
        outcome, reason, seconds, result = classify(running.folder)
        if end.error is not None and outcome is Outcome.PREEMPTED:
            outcome, reason, seconds = Outcome.RETRYABLE, end.error, time.time() - running.started
        if end.error is not None and end.error.startswith(StorageError.__name__):
            outcome, reason = Outcome.STORAGE, end.error.partition(": ")[2]
        self.record(TaskEnded(key, name, attempt, outcome, seconds, reason, result))
        if outcome is Outcome.STORAGE:
            self._refused = reason

    def _find_lost(self) -> None:
        """Give up attempts whose wrapper shows no life: a Parsl future that never resolves must not hang us."""
        now = time.time()
        for (key, name), running in list(self._running.items()):
            beat = running.folder / HEARTBEAT_FILE
            seen = beat.stat().st_mtime if beat.exists() else running.started
            if now - max(seen, running.started) > LOST_SECONDS:
                del self._running[key, name]
                reason = f"no sign of life for {LOST_SECONDS:.0f} s"
                self.record(TaskEnded(key, name, running.attempt, Outcome.RETRYABLE, now - running.started, reason))

    def _drain(self) -> None:
        """Ask everything that runs to save and leave, and take in how it ended."""
        for running in self._running.values():
            (running.folder / STOP_FILE).touch()
        give_up = time.monotonic() + STOP_SECONDS
        while self._running and time.monotonic() < give_up:
            self._wait(0.5)
        for (key, name), running in list(self._running.items()):
            reason = "did not stop in time; its last checkpoint is kept"
            self.record(TaskEnded(key, name, running.attempt, Outcome.PREEMPTED, time.time() - running.started, reason))
        self._running.clear()

    def _settle_orphans(self) -> None:
        """Adopt what finished after an earlier driver died; give the rest a new attempt."""
        for stage in self.state.stages.values():
            for task in list(stage.tasks.values()):
                if task.status is not TaskStatus.RUNNING:
                    continue
                folder = self.context.paths.stage(stage.stage, stage.key).attempt(task.name, task.attempt)
                outcome, reason, seconds, result = classify(folder)
                self.record(
                    TaskEnded(stage.key, task.name, task.attempt, outcome, seconds, reason, result, adopted=True)
                )

    def _reopen_failed(self) -> None:
        """Give a stage that failed in an earlier run another chance: the cause may be mended."""
        for name, key in list(self.state.current.items()):
            stage = self.state.stages[key]
            if stage.failure is not None:
                self.record(StageOpened(name, key, stage.settings, stage.inputs, stage.slots))
