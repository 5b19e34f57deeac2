"""All events of a campaign. The state is a fold over these events alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gfm_pipeline.campaign.budget_standing import BudgetReviewed as BudgetReviewed
from gfm_pipeline.campaign.interruption_events import DRIVER as DRIVER
from gfm_pipeline.campaign.interruption_events import LauncherRestarted as LauncherRestarted
from gfm_pipeline.campaign.interruption_events import SchedulerSilent as SchedulerSilent
from gfm_pipeline.campaign.interruption_events import Suspended as Suspended
from gfm_pipeline.campaign.job_events import JobEnded as JobEnded
from gfm_pipeline.campaign.job_events import JobEnergy as JobEnergy
from gfm_pipeline.campaign.job_events import JobIntended as JobIntended
from gfm_pipeline.campaign.job_events import JobRole as JobRole
from gfm_pipeline.campaign.job_events import JobSubmitted as JobSubmitted
from gfm_pipeline.campaign.node_events import NodesHeld as NodesHeld
from gfm_pipeline.campaign.node_events import NodesMeasured as NodesMeasured
from gfm_pipeline.campaign.node_events import NodesReleased as NodesReleased
from gfm_pipeline.campaign.ranking_events import EnsembleRanked as EnsembleRanked
from gfm_pipeline.core.contracts.energy import EnergyUse
from gfm_pipeline.core.records import from_plain, to_plain
from gfm_pipeline.core.strenum import StrEnum


class AttemptOutcome(StrEnum):
    """How an attempt at a task ended."""

    OK = "ok"
    DIVERGED = "diverged"  # a result, although a bad one
    RETRYABLE = "retryable"
    PREEMPTED = "preempted"  # checkpoint saved, continue
    STORAGE = "storage"  # the disk refused: a pause, not a failure of the task
    PERMANENT = "permanent"


class Cause(StrEnum):
    """Why an attempt ended; `gfm_pipeline.engine.tasks.retries` defines the action after each cause."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"  # on request
    DRIVER_LOST = "driver lost"
    LAUNCHER_LOST = "Parsl lost"  # its interchange or its pool of workers
    STORAGE = "disk refused"
    WALL_TIME = "wall time"
    OUT_OF_MEMORY = "out of memory"
    WORKER_LOST = "worker lost"
    NODE_FAILURE = "node failure"  # a lost manager, or a wrapper without heartbeat
    BLOCK_LOST = "block ended"  # the batch job that held its nodes: wall time, scancel, preemption
    KILLED = "killed"  # by a signal from outside
    SILENT = "silent"  # no heartbeat of the program
    TROUBLE = "trouble"  # an error of the program that may pass
    USER_ERROR = "user error"  # needs a change of the workflow, the data or the installation
    PROGRAM_ERROR = "program error"  # an unexpected exception
    CHAOS = "chaos"  # on purpose, by `run --chaos`


MACHINE_CAUSES = frozenset({Cause.WORKER_LOST, Cause.NODE_FAILURE, Cause.SILENT})  # possible faults of a node


class Action(StrEnum):
    """The action after an attempt."""

    ACCEPT = "accepted"
    RETRY = "tried again"
    CONTINUE = "continued"
    SHRINK = "tried again in smaller batches"
    PAUSE = "paused"
    GIVE_UP = "given up"


@dataclass(frozen=True)
class CampaignCreated:
    """A new campaign: journal schema, workflow name, version of the program; ``simulated``: no task really ran."""

    schema: int
    name: str
    version: str
    simulated: bool = False


@dataclass(frozen=True)
class DriverStarted:
    """A driver took the campaign."""

    host: str
    pid: int
    site: str
    version: str
    slots: int
    watts: float | None
    workflow: str
    resolved: dict[str, Any] = field(default_factory=dict)
    job: str = ""  # the batch job it runs in
    node_watts: float | None = None  # the power model of a busy node, and of an idle one
    idle_watts: float | None = None


@dataclass(frozen=True)
class DriverEnded:
    """A driver ended in order."""

    outcome: str


@dataclass(frozen=True)
class TakenOver:
    """What a stage takes over from the stage with key ``origin``: ``tasks``, and if ``decisions``, its decisions.

    ``starts`` are tasks that continue from the end of the tasks with the same names there.
    """

    origin: str
    tasks: tuple[str, ...]
    decisions: bool = False
    starts: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageOpened:
    """A stage began under a key, which is the digest of ``settings`` and ``inputs``."""

    stage: str
    key: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    slots: int
    taken: TakenOver | None = None


@dataclass(frozen=True)
class StageDone:
    """A stage has all of its outputs; ``outputs`` maps names of artefacts to digests."""

    key: str
    outputs: dict[str, str]


@dataclass(frozen=True)
class StageFailedEvent:
    """A stage cannot continue."""

    key: str
    reason: str


@dataclass(frozen=True)
class StageCurtailed:
    """A stage ends with its present results, since a budget is spent; ``limits``: its limits, by their keys."""

    key: str
    reason: str
    limits: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """A point of the search space; ``wave`` is for accounting: one wave may contain several proposals."""

    name: str
    wave: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class WaveProposed:
    """Candidates from one proposal; ``told`` is the number of results that it used.

    ``upto``: they follow from this number of events at the beginning of the journal; None: from the results of a fixed
    set of earlier candidates, in any order of arrival.
    """

    key: str
    wave: int
    candidates: tuple[Candidate, ...]
    origin: str
    told: int
    upto: int | None = None


@dataclass(frozen=True)
class RungDecided:
    """Candidates that continue after a rung, and those that stop, with the evidence."""

    key: str
    wave: int
    rung: int
    promoted: tuple[str, ...]
    stopped: dict[str, str]


@dataclass(frozen=True)
class Member:
    """An ensemble member, and the candidate (and rung) at which its training starts."""

    name: str
    candidate: str
    rung: int
    objective: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class MembersSelected:
    """The chosen candidates of the ensemble; ``passed_over``: better ones that were not chosen, with reasons.

    Journals of earlier versions lack ``passed_over``.
    """

    key: str
    members: tuple[Member, ...]
    passed_over: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskStarted:
    """The driver gave an attempt at a task to Parsl; ``nodes`` are the names of its nodes, if it has any."""

    key: str
    task: str
    attempt: int
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskEnded:
    """An attempt ended.

    ``result`` is the program's record; ``adopted``: found finished after a driver's death; ``saved``: the progress from
    which the next attempt can continue. Journals of the first version have no ``cause`` and no ``action``.
    ``node_seconds``: of its nodes; ``energy``: its use; ``idle``: energy of its nodes before it began,
    while no task ran there. Journals of earlier versions lack all three.
    """

    key: str
    task: str
    attempt: int
    outcome: AttemptOutcome
    seconds: float
    reason: str = ""
    result: dict[str, Any] | None = None
    adopted: bool = False
    cause: Cause | None = None
    action: Action | None = None
    saved: float | None = None
    host: str = ""
    node_seconds: float | None = None
    energy: EnergyUse | None = None
    idle: EnergyUse | None = None


@dataclass(frozen=True)
class ArtefactLost:
    """The published output of a finished task is gone; the task must run again."""

    key: str
    task: str
    reason: str


@dataclass(frozen=True)
class NodeExcluded:
    """The driver places no more tasks on a node."""

    node: str
    reason: str


Event = (
    CampaignCreated
    | DriverStarted
    | DriverEnded
    | StageOpened
    | StageDone
    | StageFailedEvent
    | StageCurtailed
    | BudgetReviewed
    | WaveProposed
    | RungDecided
    | EnsembleRanked
    | MembersSelected
    | TaskStarted
    | TaskEnded
    | LauncherRestarted
    | ArtefactLost
    | JobIntended
    | JobSubmitted
    | JobEnded
    | JobEnergy
    | NodeExcluded
    | NodesHeld
    | NodesReleased
    | NodesMeasured
    | SchedulerSilent
    | Suspended
)

CREATED = "campaign-created"  # the first event of every journal
_KINDS: dict[str, type[Any]] = {
    CREATED: CampaignCreated,
    "driver-started": DriverStarted,
    "driver-ended": DriverEnded,
    "stage-opened": StageOpened,
    "stage-done": StageDone,
    "stage-failed": StageFailedEvent,
    "stage-curtailed": StageCurtailed,
    "budget-reviewed": BudgetReviewed,
    "wave-proposed": WaveProposed,
    "rung-decided": RungDecided,
    "ensemble-ranked": EnsembleRanked,
    "members-selected": MembersSelected,
    "task-started": TaskStarted,
    "task-ended": TaskEnded,
    "launcher-restarted": LauncherRestarted,
    "artefact-lost": ArtefactLost,
    "job-intended": JobIntended,
    "job-submitted": JobSubmitted,
    "job-ended": JobEnded,
    "job-energy": JobEnergy,
    "node-excluded": NodeExcluded,
    "nodes-held": NodesHeld,
    "nodes-released": NodesReleased,
    "nodes-measured": NodesMeasured,
    "scheduler-silent": SchedulerSilent,
    "suspended": Suspended,
}
_NAMES = {cls: kind for kind, cls in _KINDS.items()}


def to_entry(event: Event) -> tuple[str, dict[str, Any]]:
    """Return an event's kind and plain data for the journal."""
    return _NAMES[type(event)], to_plain(event)


def from_entry(kind: str, data: dict[str, Any]) -> Event:
    """Return the event of a journal entry; raises ValueError for an unknown kind or unfitting data."""
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is not a kind of event known here, perhaps one of a newer version")
    event: Event = from_plain(_KINDS[kind], data)
    return event
