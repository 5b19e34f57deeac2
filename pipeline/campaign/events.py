"""Everything that can happen to a campaign. The state is a fold over these, and nothing else."""

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
from gfm_pipeline.core.contracts.energy import EnergyUse
from gfm_pipeline.core.records import from_plain, to_plain
from gfm_pipeline.core.strenum import StrEnum


class AttemptOutcome(StrEnum):
    """How an attempt at a task ended."""

    OK = "ok"
    DIVERGED = "diverged"  # a result, though not a good one
    RETRYABLE = "retryable"
    PREEMPTED = "preempted"  # checkpoint saved, continue
    STORAGE = "storage"  # the disk refused; a pause, no fault of the task
    PERMANENT = "permanent"


class Cause(StrEnum):
    """Why an attempt ended; `gfm_pipeline.engine.tasks.retries` says what follows from each."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"  # asked to
    DRIVER_LOST = "driver lost"
    LAUNCHER_LOST = "Parsl lost"  # its interchange or its pool of workers
    STORAGE = "disk refused"
    WALL_TIME = "wall time"
    OUT_OF_MEMORY = "out of memory"
    WORKER_LOST = "worker lost"
    NODE_FAILURE = "node failure"  # a manager, or a wrapper that shows no life
    BLOCK_LOST = "block ended"  # the batch job that held its nodes: wall time, scancel, preemption
    KILLED = "killed"  # by a signal that was not ours
    SILENT = "silent"  # no heartbeat of the program
    TROUBLE = "trouble"  # the program's own word for what may pass
    USER_ERROR = "user error"  # what the workflow, the data or the installation must be changed for
    PROGRAM_ERROR = "program error"  # an exception that nobody foresaw
    CHAOS = "chaos"  # wanted, by `run --chaos`


MACHINE_CAUSES = frozenset({Cause.WORKER_LOST, Cause.NODE_FAILURE, Cause.SILENT})  # which may be the fault of a node


class Action(StrEnum):
    """What follows an attempt."""

    ACCEPT = "accepted"
    RETRY = "tried again"
    CONTINUE = "continued"
    SHRINK = "tried again in smaller batches"
    PAUSE = "paused"
    GIVE_UP = "given up"


@dataclass(frozen=True)
class CampaignCreated:
    """A new campaign: journal schema, workflow name, version of the program; ``simulated``: nothing of it was run."""

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
    """A driver let go in good order."""

    outcome: str


@dataclass(frozen=True)
class TakenOver:
    """What a stage takes over from the one of key ``origin``: its ``tasks``, and with ``decisions`` what it decided.

    ``starts`` are tasks that go on from where those of the same name ended there.
    """

    origin: str
    tasks: tuple[str, ...]
    decisions: bool = False
    starts: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageOpened:
    """A stage began under a key; ``settings`` and ``inputs`` are what the key is the digest of."""

    stage: str
    key: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    slots: int
    taken: TakenOver | None = None


@dataclass(frozen=True)
class StageDone:
    """A stage has all it promised; ``outputs`` maps artefact name to digest."""

    key: str
    outputs: dict[str, str]


@dataclass(frozen=True)
class StageFailedEvent:
    """A stage cannot go on."""

    key: str
    reason: str


@dataclass(frozen=True)
class StageCurtailed:
    """A stage ends with what it has, since a budget is spent; ``limits``: those it was under, by their keys."""

    key: str
    reason: str
    limits: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """A point of the search space; ``wave``: for the account, of which several proposals may be one."""

    name: str
    wave: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class WaveProposed:
    """Candidates that were proposed together; ``told`` counts the results the proposals were based on.

    ``upto``: they follow from that many events from the beginning of the journal; None: from the results of a fixed set
    of earlier candidates, whenever these came.
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
    """An ensemble member and the candidate (and rung) it trains on from."""

    name: str
    candidate: str
    rung: int
    objective: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class MembersSelected:
    """The candidates chosen as ensemble; ``passed_over``: better ones that were not, and why.

    Journals of earlier versions do not say who was passed over.
    """

    key: str
    members: tuple[Member, ...]
    passed_over: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskStarted:
    """An attempt at a task was handed to Parsl; ``nodes`` names those it was placed on, if any were."""

    key: str
    task: str
    attempt: int
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskEnded:
    """An attempt ended.

    ``result`` is the program's own record; ``adopted``: found finished after a driver's death; ``saved``: how far
    the next attempt can go on from. Journals of the first version have no ``cause`` and no ``action``.
    ``node_seconds``: of the nodes it held; ``energy``: what it used; ``idle``: what its nodes used before it began,
    while no task ran there. Journals of earlier versions have none of the three.
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
    """What a finished task had published is gone; the task is to be done again."""

    key: str
    task: str
    reason: str


@dataclass(frozen=True)
class NodeExcluded:
    """Nothing more is placed on a node."""

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
