"""The view of a campaign as plain records; status and report draw only these."""

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
    """State of a stage as people name it."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class CurvePoint:
    """One validation: graphs seen in the model's life, seconds of training, objective."""

    graphs: int
    seconds: float
    objective: float


@dataclass(frozen=True)
class StageView:
    """One stage: tasks by state, and wall seconds from its first start to its end (or until now)."""

    name: str
    status: StageStatus
    tasks_total: int | None  # None while not yet known
    tasks_done: int
    tasks_running: int
    tasks_failed: int
    started: float | None  # Unix time
    ended: float | None
    busy_seconds: float  # summed over its tasks
    detail: str  # one line for people


@dataclass(frozen=True)
class SourceView:
    """What ingest has read of a source so far; all of it once its status is done.

    ``records`` counts good and bad ones, ``set_aside`` the bad ones. ``reasons`` say why, most frequent first, in what
    is finished. ``quarantine`` names the files that list them ('' while there is none).
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

    ``error`` is the standard error of the objective, None where it was not recorded.
    """

    rung: int
    graphs: int
    objective: float | None
    seconds: float
    error: float | None = None


@dataclass(frozen=True)
class StopView:
    """Why a candidate was stopped at a rung, and what that saved against training on to the last one.

    Parameters
    ----------
    rung
        Position of the rung.
    value
        Objective there; None: diverged or failed.
    error
        Its standard error; None: not known.
    threshold
        The worst objective that was promoted from the rung by then; None: none was.
    rank, of
        Place of the value among those known at the decision, and how many candidates had finished the rung.
    saved_graphs, saved_node_hours, saved_kwh
        At the rates of the candidate so far; None: not known.
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
    status: str  # running | stopped | finished | diverged | failed | selected
    outcome: str
    curve: tuple[CurvePoint, ...]
    running_task: str | None = None
    energy: KilowattHours | None = None  # of all its attempts
    joules_per_graph: float | None = None
    stop: StopView | None = None  # of one that stands stopped


@dataclass(frozen=True)
class MemberView:
    """A member of the ensemble, trained on from its candidate."""

    name: str
    candidate: str
    settings: dict[str, Any]
    status: str  # waiting | running | converged | limit | failed
    graphs: int
    objective: float | None
    errors: dict[str, DatasetErrors]
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class TaskFailure:
    """A failed attempt, newest last, with the log that tells why.

    ``kind`` is the class of the failure, ``then`` what followed; '' in campaigns of the first version. ``table`` is
    what its program left beside the sentence, as lines of text.
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
    """Energy of something (kWh), half-width of its error bar (None: not known), how it is known, and by what."""

    kwh: float
    error: float | None
    label: EnergyLabel
    source: str


@dataclass(frozen=True)
class StageEnergy:
    """Energy of a stage: of attempts whose result counts, of lost ones, and of idle nodes before any of them."""

    name: str
    node_hours: float
    tasks: KilowattHours | None
    lost: KilowattHours | None
    idle: KilowattHours | None
    joules_per_graph: float | None = None


@dataclass(frozen=True)
class EnergyView:
    """Energy of a campaign; ``total`` is the sum of tasks, idle nodes and overhead.

    ``allocation`` is what the nodes counted themselves, and ``difference`` by which share of it the total is more.
    """

    total: KilowattHours | None = None
    tasks: KilowattHours | None = None
    idle: KilowattHours | None = None
    overhead: KilowattHours | None = None
    allocation: KilowattHours | None = None
    difference: float | None = None
    stages: tuple[StageEnergy, ...] = ()


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
    failures: tuple[TaskFailure, ...] = ()
    node_hours: float = 0.0
    energy: EnergyView = EnergyView()
    budget: tuple[Standing, ...] = ()  # as the driver last looked at it
    resolved: dict[str, Any] = field(default_factory=dict)
    next_command: str = ""
    options: tuple[str, ...] = ()  # of the command that ran it last: campaign folder, site, overlays, overrides
    edit_first: str = ""  # the workflow, where going on without a change would fail again
