"""The state of a campaign: changed only by `CampaignState.apply`, one event at a time."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.budget_standing import Standing
from gfm_pipeline.campaign.events import AttemptOutcome, Event
from gfm_pipeline.campaign.journal import SCHEMA_VERSION, Entry, read
from gfm_pipeline.campaign.stage_state import Attempt, StageState, TaskState, TaskStatus
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.records import from_plain


@dataclass
class DriverState:
    """The latest driver."""

    started: float
    info: ev.DriverStarted
    ended: float | None = None
    outcome: str | None = None


@dataclass
class JobRecord:
    """A batch job of the campaign; ``job`` is '' until the batch system gave it a number."""

    intent: ev.JobIntended
    since: float
    job: str = ""
    ended: str | None = None  # why
    energy: ev.JobEnergy | None = None


@cache
def _result_types() -> dict[str, Any]:
    """Return the types of the fields of a training's result, by name; results of older versions lack some fields."""
    return {name: kind for name, kind in get_type_hints(TrainResult).items() if name != "stop_reason"}


@dataclass
class Holding:
    """Nodes that the campaign held, and the times (Unix seconds); ``until`` None: it still holds them."""

    block: str
    nodes: int
    since: float
    until: float | None = None


_OF_TRAININGS = frozenset({"checkpoint", "stop_reason"})  # fields that only results of trainings have
MAX_ATTEMPTS = 3  # for journals that do not record the action after an attempt


@dataclass
class CampaignState:
    """All known facts of a campaign."""

    created: ev.CampaignCreated | None = None
    created_at: float = 0.0
    last_event: float = 0.0
    stages: dict[str, StageState] = field(default_factory=dict)  # by key
    current: dict[str, str] = field(default_factory=dict)  # the latest key of each stage
    drivers: list[DriverState] = field(default_factory=list)
    jobs: dict[str, JobRecord] = field(default_factory=dict)  # batch jobs by name
    excluded: dict[str, str] = field(default_factory=dict)  # node -> reason
    scheduler_silent: str | None = None
    version: int = 0  # increases with every event
    # Tasks with an attempt that ended by a possible fault of the machine, by node.
    blamed: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    holdings: list[Holding] = field(default_factory=list)
    measured: list[ev.NodesMeasured] = field(default_factory=list)
    budget: tuple[Standing, ...] = ()  # at the latest review

    def open_jobs(self, role: ev.JobRole | None = None) -> dict[str, JobRecord]:
        """Return the batch jobs without a recorded end."""
        return {n: j for n, j in self.jobs.items() if j.ended is None and role in (None, j.intent.role)}

    def driver_left(self, job: str) -> bool:
        """Return whether the last driver in batch job ``job`` ended in order: the job's own record of its end."""
        last = next((driver for driver in reversed(self.drivers) if job and driver.info.job == job), None)
        return last is not None and last.ended is not None

    def stage(self, name: str) -> StageState | None:
        """Return the latest state of the stage, or None."""
        key = self.current.get(name)
        return None if key is None else self.stages[key]

    def apply(self, event: Event, time: float) -> None:
        """Fold one event into the state."""
        before, time = self.last_event, max(time, self.last_event)  # a clock may jump back, a duration never
        self.last_event = time
        self.version += 1
        match event:  # the two most frequent first
            case ev.TaskStarted(key, name, attempt, nodes):
                self._task_started(self.stages[key], name, attempt, time, nodes)
            case ev.TaskEnded():
                stage = self.stages[event.key]
                self._task_ended(stage.tasks[event.task], event, time)
                stage.note(event.task)
                self._blame(stage, stage.tasks[event.task])
            case ev.CampaignCreated():
                self.created, self.created_at = event, time
            case ev.DriverStarted():
                self._release(before)  # nodes of a dead driver
                self.drivers.append(DriverState(time, event))
            case ev.NodesHeld(block, nodes, since):
                self.holdings.append(Holding(block, nodes, time if since is None else min(since, time)))
            case ev.NodesReleased(block):
                self._release(time, block)
            case ev.NodesMeasured():
                self.measured.append(event)
            case ev.DriverEnded(outcome):
                self._release(time)
                if self.drivers:
                    self.drivers[-1].ended, self.drivers[-1].outcome = time, outcome
            case ev.StageOpened(called, key, settings, inputs, slots, taken):
                self.current[called] = key
                known = self.stages.get(key)
                if known is None:
                    self.stages[key] = StageState(called, key, settings, inputs, slots, time)
                    if taken is not None:
                        self._take_over(self.stages[key], taken)
                elif known.curtailed is not None:
                    known.curtailed = known.outputs = known.members = known.ended = known.failure = None
                elif known.failure is not None:
                    known.failure, known.ended, known.opened = None, None, time
                    for task in known.tasks.values():
                        if task.status is TaskStatus.FAILED:
                            task.status = TaskStatus.TO_RETRY
                            task.forgiven = len(task.history)
                            known.note(task.name)
            case ev.StageDone(key, outputs):
                self.stages[key].outputs, self.stages[key].ended = outputs, time
            case ev.BudgetReviewed(standings):
                self.budget = standings
            case ev.StageCurtailed(key):
                self.stages[key].curtailed = event
            case ev.ArtefactLost(key, name):
                self._artefact_lost(self.stages[key], name)
            case ev.StageFailedEvent(key, reason):
                self.stages[key].failure, self.stages[key].ended = reason, time
            case ev.WaveProposed(key, wave):
                self.stages[key].waves[wave] = event
            case ev.RungDecided(key, wave, rung):
                self.stages[key].decisions[wave, rung] = event
            case ev.EnsembleRanked(key):
                self.stages[key].ranked = event
            case ev.MembersSelected(key, members, passed_over):
                self.stages[key].members, self.stages[key].passed_over = members, passed_over
            case ev.JobIntended(name):
                self.jobs[name] = JobRecord(event, time)
            case ev.JobSubmitted(name, job):
                self.jobs[name].job = job
            case ev.JobEnded(name, reason):
                self.jobs[name].ended = reason
            case ev.JobEnergy(name):
                self.jobs[name].energy = event
            case ev.NodeExcluded(node, reason):
                self.excluded[node] = reason
            case ev.SchedulerSilent(reason):
                self.scheduler_silent = reason

    def _release(self, time: float, block: str | None = None) -> None:
        for holding in self.holdings:
            if holding.until is None and block in (None, holding.block):
                holding.until = max(time, holding.since)

    @staticmethod
    def _task_started(stage: StageState, name: str, attempt: int, time: float, nodes: tuple[str, ...]) -> None:
        task = stage.tasks.get(name)
        if task is None:
            stage.tasks[name] = TaskState(name, TaskStatus.RUNNING, attempt, time, nodes=nodes)
        else:
            task.status, task.attempt, task.started, task.ended = TaskStatus.RUNNING, attempt, time, None
            task.nodes = nodes
        stage.note(name)

    def _blame(self, stage: StageState, task: TaskState) -> None:
        """Record the nodes of the attempt that just ended, if its end may be the machine's fault."""
        attempt = task.history[-1]
        if attempt.cause in ev.MACHINE_CAUSES:
            for node in attempt.nodes or ((attempt.host,) if attempt.host else ()):
                self.blamed.setdefault(node, set()).add((stage.key, task.name))

    def _take_over(self, stage: StageState, taken: ev.TakenOver) -> None:
        """Give ``stage`` the results of another stage; both share the tasks, which are lost or repeated for both."""
        origin = self.stages[taken.origin]
        stage.tasks |= {name: origin.tasks[name] for name in taken.tasks}
        origin.sharing.append(stage)
        stage.sharing = origin.sharing
        for name in taken.tasks:
            stage.note(name)
        stage.starts = {name: (origin.key, origin.tasks[name]) for name in taken.starts}
        if taken.decisions:
            stage.designed_for = origin.designed_for or origin.settings.get("candidates")
            stage.slots, stage.waves, stage.decisions = origin.slots, dict(origin.waves), dict(origin.decisions)

    def all_tasks(self) -> list[tuple[StageState, TaskState]]:
        """Return every task once, with its first stage."""
        found = {id(task): (stage, task) for stage in reversed(self.stages.values()) for task in stage.tasks.values()}
        return list(reversed(found.values()))

    @staticmethod
    def _artefact_lost(stage: StageState, name: str) -> None:
        task = stage.tasks[name]
        task.status, task.result, task.forgiven = TaskStatus.TO_RETRY, None, len(task.history)
        stage.outputs, stage.ended = None, None
        stage.note(name)

    @staticmethod
    def _check_result(result: dict[str, Any]) -> None:
        """Refuse the result of a training whose fields have wrong types; raises ValueError."""
        if not _OF_TRAININGS & result.keys():
            return  # programs of other stages may give any field any type
        for name, kind in _result_types().items():
            if name in result:
                try:
                    from_plain(kind, result[name])
                except ValueError as error:
                    raise ValueError(f"the {name} of its result: {error}") from None

    @staticmethod
    def _task_ended(task: TaskState, event: ev.TaskEnded, time: float) -> None:
        task.ended = time
        task.seconds += event.seconds
        if event.result is not None:
            CampaignState._check_result(event.result)
        task.history.append(
            Attempt(
                event.attempt,
                event.outcome,
                event.reason,
                task.started,
                event.seconds,
                event.adopted,
                event.cause,
                event.action,
                event.saved,
                event.host,
                task.nodes,
                event.node_seconds,
                event.energy,
                event.idle,
            )
        )
        if event.action is ev.Action.GIVE_UP:
            task.status = TaskStatus.FAILED
            return
        if event.action is not None and event.action is not ev.Action.ACCEPT:
            task.status = TaskStatus.TO_RETRY
            return
        match event.outcome:
            case AttemptOutcome.OK | AttemptOutcome.DIVERGED:
                task.status, task.result = TaskStatus.DONE, event.result
                task.diverged = event.outcome is AttemptOutcome.DIVERGED
            case AttemptOutcome.PREEMPTED | AttemptOutcome.STORAGE:
                task.status = TaskStatus.TO_RETRY
            case AttemptOutcome.RETRYABLE:
                tries = sum(a.outcome is AttemptOutcome.RETRYABLE for a in task.counted)
                task.status = TaskStatus.TO_RETRY if tries < MAX_ATTEMPTS else TaskStatus.FAILED
            case AttemptOutcome.PERMANENT:
                task.status = TaskStatus.FAILED


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector: a fold makes no cyclic garbage, and the collector takes a third of its time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def load_state(path: Path) -> CampaignState:
    """Fold a journal file into a state.

    Raises
    ------
    IntegrityError
        When the journal is damaged, newer than this program, or not the journal of a campaign.
    """
    state = CampaignState()
    with _collector_paused():
        for entry in read(path):
            if entry.n == 0:
                _check_beginning(path, entry)
            try:
                state.apply(ev.from_entry(entry.kind, entry.data), entry.t)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = str(error).splitlines()[0]
                raise IntegrityError(
                    f"{path}:{entry.n + 1}: this event does not fit ({reason}).",
                    "Upgrade gfm-pipeline if a newer version wrote it, else restore the file from a backup.",
                ) from error
    return state


def _check_beginning(path: Path, entry: Entry) -> None:
    """Refuse a journal of no campaign, and a newer one before its events are read, whose kinds may be unknown."""
    schema = entry.data.get("schema") if isinstance(entry.data, dict) else None
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise IntegrityError(f"{path} was written by a newer version (schema {schema}).", "Upgrade gfm-pipeline.")
    if entry.kind != ev.CREATED:
        raise IntegrityError(
            f"{path}:1: a campaign begins with its creation, not with {entry.kind}.",
            "Lines were removed, or this is not a campaign's journal; restore it from a backup.",
        )


def fold(pairs: Iterable[tuple[float, Event]]) -> CampaignState:
    """Fold (time, event) pairs; for tests and the simulator."""
    state = CampaignState()
    for time, event in pairs:
        state.apply(event, time)
    return state
