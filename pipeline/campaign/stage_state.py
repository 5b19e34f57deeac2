"""Stages, tasks and attempts as they stand."""

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
    """Where a task stands."""

    RUNNING = "running"
    DONE = "done"  # has a result: success, or a recorded divergence
    TO_RETRY = "to retry"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One finished attempt, kept for the history people are shown."""

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

    ``history`` keeps every attempt; the first ``forgiven`` of them no longer count against the task, because
    its stage was opened again after they had failed it.
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
    nodes: tuple[str, ...] = ()  # of the latest attempt, where it was placed on nodes by name

    _decoded: tuple[dict[str, Any], Any] | None = field(default=None, init=False, compare=False, repr=False)

    def decoded(self, kind: type[T]) -> T | None:
        """Return the result as a ``kind``, decoded once; None while there is none.

        Raises
        ------
        IntegrityError
            When the journal's record is no such result.
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
    designed_for: int | None = None  # candidates of the search whose first design it goes on with
    # Tasks that go on from where one of another key ended, and which.
    starts: dict[str, tuple[str, TaskState]] = field(default_factory=dict)
    curtailed: ev.StageCurtailed | None = None  # a budget was spent: it ends with what it has
    outputs: dict[str, str] | None = None
    tasks: dict[str, TaskState] = field(default_factory=dict)
    waves: dict[int, ev.WaveProposed] = field(default_factory=dict)
    decisions: dict[tuple[int, int], ev.RungDecided] = field(default_factory=dict)
    members: tuple[Member, ...] | None = None
    passed_over: dict[str, str] = field(default_factory=dict)  # better candidates that are no members, and why
    # Tasks whose status has changed, in order, again with each change; and those that have ever failed for good.
    changed: list[str] = field(default_factory=list, compare=False, repr=False)
    failed: dict[str, None] = field(default_factory=dict, compare=False, repr=False)

    # Stages whose results are partly the same tasks, this one among them.
    sharing: list[StageState] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Begin as a stage that shares nothing."""
        self.sharing.append(self)

    def note(self, name: str) -> None:
        """Note that the status of a task has changed, for every stage that has it."""
        task = self.tasks[name]
        for stage in self.sharing:
            if stage.tasks.get(name) is task:
                stage.changed.append(name)
                if task.status is TaskStatus.FAILED:
                    stage.failed[name] = None

    def candidates(self) -> dict[str, Candidate]:
        """Return all candidates by name, in the order they were proposed."""
        return {c.name: c for wave in sorted(self.waves) for c in self.waves[wave].candidates}
