"""The state of stages, tasks and attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import AttemptOutcome, Candidate, Member
from gfm_pipeline.core.contracts.energy import EnergyUse
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.records import from_plain
from gfm_pipeline.core.strenum import StrEnum

T = TypeVar("T")


class TaskStatus(StrEnum):
    """Status of a task."""

    RUNNING = "running"
    DONE = "done"  # has a result: success, or a recorded divergence
    TO_RETRY = "to retry"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One finished attempt, kept for the history that users see."""

    number: int
    outcome: AttemptOutcome
    reason: str
    started: float
    seconds: float
    adopted: bool
    cause: ev.Cause | None = None
    action: ev.Action | None = None
    saved: float | None = None
    host: str = ""
    nodes: tuple[str, ...] = ()
    node_seconds: float | None = None
    energy: EnergyUse | None = None
    idle: EnergyUse | None = None


@dataclass
class TaskState:
    """A task of a stage; ``attempt`` is the number of the latest one, from 1.

    ``history`` keeps every attempt. The first ``forgiven`` of them no longer count against the task, because
    its stage was opened again after they had failed.
    """

    name: str
    status: TaskStatus
    attempt: int
    started: float
    ended: float | None = None
    seconds: float = 0.0
    result: dict[str, Any] | None = None
    diverged: bool = False
    history: list[Attempt] = field(default_factory=list)
    forgiven: int = 0
    nodes: tuple[str, ...] = ()  # of the latest attempt, if it was placed on nodes by name

    _decoded: tuple[dict[str, Any], Any] | None = field(default=None, init=False, compare=False, repr=False)

    def decoded(self, kind: type[T]) -> T | None:
        """Return the result as a ``kind``, decoded once; None before there is a result.

        Raises
        ------
        IntegrityError
            When the journal's record does not fit ``kind``.
        """
        if self.result is None:
            return None
        if self._decoded is None or self._decoded[0] is not self.result or not isinstance(self._decoded[1], kind):
            try:
                self._decoded = self.result, from_plain(kind, self.result)
            except ValueError as error:
                raise IntegrityError(
                    f"The journal's result of task {self.name} cannot be read: {error}.",
                    "Use the version that recorded it, or run the campaign in another folder.",
                ) from error
        found: T = self._decoded[1]
        return found

    @property
    def counted(self) -> list[Attempt]:
        """The attempts that count against the task."""
        return self.history[self.forgiven :]


@dataclass
class StageState:
    """One stage under one key."""

    stage: str
    key: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    slots: int
    opened: float
    ended: float | None = None
    failure: str | None = None
    designed_for: int | None = None  # number of candidates of the search whose first design this one continues
    # Tasks that continue a task of another key, with that task.
    starts: dict[str, tuple[str, TaskState]] = field(default_factory=dict)
    curtailed: ev.StageCurtailed | None = None  # a budget was spent: the stage ends with its present results
    outputs: dict[str, str] | None = None
    tasks: dict[str, TaskState] = field(default_factory=dict)
    waves: dict[int, ev.WaveProposed] = field(default_factory=dict)
    decisions: dict[tuple[int, int], ev.RungDecided] = field(default_factory=dict)
    ranked: ev.EnsembleRanked | None = None  # of the present results
    members: tuple[Member, ...] | None = None
    passed_over: dict[str, str] = field(default_factory=dict)  # better candidates that are not members, with reasons
    # Tasks in the order of changes of their status, once per change; and tasks that have ever failed finally.
    changed: list[str] = field(default_factory=list, compare=False, repr=False)
    failed: dict[str, None] = field(default_factory=dict, compare=False, repr=False)

    # Stages that share tasks, including this one.
    sharing: list[StageState] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Start as a stage that shares no tasks."""
        self.sharing.append(self)

    def note(self, name: str) -> None:
        """Record a change of a task's status, for every stage that has the task."""
        task = self.tasks[name]
        for stage in self.sharing:
            if stage.tasks.get(name) is task:
                stage.ranked = None
                stage.changed.append(name)
                if task.status is TaskStatus.FAILED:
                    stage.failed[name] = None

    def candidates(self) -> dict[str, Candidate]:
        """Return all candidates by name, in the order of their proposals."""
        return {c.name: c for wave in sorted(self.waves) for c in self.waves[wave].candidates}
