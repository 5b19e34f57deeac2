"""The view of a campaign as plain records, the only input of status and report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gfm_pipeline.campaign.budget_standing import Standing
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.energy import EnergyLabel
from gfm_pipeline.core.contracts.evaluation import CalibrateResult
from gfm_pipeline.core.contracts.training_result import DatasetErrors
from gfm_pipeline.core.strenum import StrEnum


class StageStatus(StrEnum):
    """State of a stage, for users."""

    WAITING = "waiting"  # not begun
    STOPPED = "stopped"  # begun, and no driver continues it now
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


#: Status of a candidate or a member whose training began, and that no driver continues now.
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class CurvePoint:
    """One validation: graphs since the model's first training, seconds of training, objective."""

    graphs: int
    seconds: float
    objective: float


@dataclass(frozen=True)
class StageView:
    """One stage: tasks by state, and wall seconds from its first start to its end (or until now)."""

    name: str
    status: StageStatus
    tasks_total: int | None  # None while unknown
    tasks_done: int
    tasks_running: int
    tasks_failed: int
    started: float | None  # Unix time
    ended: float | None
    busy_seconds: float  # summed over its tasks
    detail: str  # one line for users


@dataclass(frozen=True)
class SourceView:
    """Ingest's progress on a source so far, complete when its status is done.

    ``records`` counts good and bad records, ``set_aside`` the bad ones. ``reasons`` are the reasons in finished tasks,
    most frequent first. ``quarantine`` names the files that list them ('' while there is none).
    """

    name: str
    status: StageStatus
    shards: int
    shards_read: int
    records: int
    set_aside: int
    reasons: dict[str, int]
    quarantine: str = ""


@dataclass(frozen=True)
class RungView:
    """One rung of a candidate: graphs seen at its end, objective (None: diverged or failed), task seconds.

    ``error`` is the standard error of the objective; None if it was not recorded.
    """

    rung: int
    graphs: int
    objective: float | None
    seconds: float
    error: float | None = None


@dataclass(frozen=True)
class StopView:
    """Why a candidate was stopped at a rung, and the saving compared with training to the last rung.

    Parameters
    ----------
    rung
        Position of the rung.
    value
        Objective there; None: diverged or failed.
    error
        Its standard error; None: unknown.
    threshold
        The worst objective promoted from the rung so far; None: no candidate was promoted.
    rank, of
        Rank of the value at the time of the decision, and number of candidates that had finished the rung.
    saved_graphs, saved_node_hours, saved_kwh
        At the rates of the candidate so far; None: unknown.
    """

    rung: int
    value: float | None
    error: float | None
    threshold: float | None
    rank: int | None
    of: int
    saved_graphs: int
    saved_node_hours: float | None
    saved_kwh: float | None


@dataclass(frozen=True)
class CandidateView:
    """A candidate of the search. ``outcome`` is one line with the evidence, e.g. the rank that stopped it."""

    name: str
    wave: int
    settings: dict[str, Any]
    rungs: tuple[RungView, ...]
    status: str  # waiting | running | interrupted | stopped | finished | diverged | failed | selected
    outcome: str
    curve: tuple[CurvePoint, ...]
    running_task: str | None = None
    energy: KilowattHours | None = None  # of all its attempts
    joules_per_graph: float | None = None
    stop: StopView | None = None  # of a stopped candidate


@dataclass(frozen=True)
class MemberView:
    """A member of the ensemble, whose training continues that of its candidate."""

    name: str
    candidate: str
    settings: dict[str, Any]
    status: str  # waiting | running | interrupted | converged | limit | failed
    graphs: int
    objective: float | None
    errors: dict[str, DatasetErrors]
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class TaskFailure:
    """A failed attempt, newest last, with the log that gives the reason.

    ``kind`` is the class of the failure, ``then`` the next action; '' in campaigns of the first version. ``table`` is
    the program's table in addition to the sentence, as lines of text.
    """

    task: str
    attempt: int
    reason: str
    log: str
    kind: str = ""
    then: str = ""
    table: str = ""


@dataclass(frozen=True)
class KilowattHours:
    """An energy (kWh), its uncertainty (half-width; None: unknown), its kind, and its source."""

    kwh: float
    error: float | None
    label: EnergyLabel
    source: str


@dataclass(frozen=True)
class StageEnergy:
    """Energy of a stage: of attempts with a valid result, of lost attempts, and of idle nodes before them."""

    name: str
    node_hours: float
    tasks: KilowattHours | None
    lost: KilowattHours | None
    idle: KilowattHours | None
    joules_per_graph: float | None = None
    graphs: float = 0.0  # of its trainings


@dataclass(frozen=True)
class EnergyView:
    """Energy of a campaign; ``total`` is the sum of tasks, idle nodes and overhead.

    ``allocation`` is the energy by the nodes' counters, and ``difference`` the relative excess of the total over it.
    """

    total: KilowattHours | None = None
    tasks: KilowattHours | None = None
    idle: KilowattHours | None = None
    overhead: KilowattHours | None = None
    allocation: KilowattHours | None = None
    difference: float | None = None
    stages: tuple[StageEnergy, ...] = ()


@dataclass(frozen=True)
class ParetoPoint:
    """A candidate of the Pareto front of several objectives, with their values by name."""

    candidate: str
    objectives: dict[str, float | None]


@dataclass(frozen=True)
class CampaignView:
    """All facts that status and report show, from the journal and the result files alone."""

    name: str
    path: str
    site: str
    workflow: str
    created: float
    now: float
    version: str
    driver: str  # e.g. "running (pid 123 on host, heartbeat 2 s ago)", "not running"
    driver_alive: bool
    stages: tuple[StageView, ...]
    sources: tuple[SourceView, ...] = ()
    datasets: tuple[DatasetStatistics, ...] = ()
    candidates: tuple[CandidateView, ...] = ()
    members: tuple[MemberView, ...] = ()
    calibration: CalibrateResult | None = None
    pareto: tuple[ParetoPoint, ...] = ()  # of a search with several objectives, the smallest error first
    failures: tuple[TaskFailure, ...] = ()
    node_hours: float = 0.0
    energy: EnergyView = EnergyView()
    budget: tuple[Standing, ...] = ()  # at the driver's latest review
    resolved: dict[str, Any] = field(default_factory=dict)
    next_command: str = ""
    options: tuple[str, ...] = ()  # of the command that ran it last: campaign folder, site, overlays, overrides
    edit_first: str = ""  # the workflow, if continuing without a change would fail again
