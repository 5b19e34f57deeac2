"""Results of a decision: events to record, tasks to start, candidates to propose."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gfm_pipeline.campaign.events import Cause, Event, StageOpened
from gfm_pipeline.campaign.paths import CampaignPaths, StagePaths
from gfm_pipeline.campaign.stage_state import StageState, TaskStatus
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.optimisation.fine_tuning import EarlierEnsemble
from gfm_pipeline.core.contracts.task import TaskSpec

if TYPE_CHECKING:  # only for annotations: viewing a campaign does not need its slow import
    from gfm_pipeline.engine.stages.agenda import Agenda
    from gfm_pipeline.execution.size_class import SizeClass
    from gfm_pipeline.search.warm_start import Prior
    from gfm_pipeline.workflow.schema import WorkflowModel


S = TypeVar("S", bound=TaskSpec)
R = TypeVar("R")


@dataclass(frozen=True)
class Program(Generic[S, R]):
    """A program that runs on compute nodes: its spec, and its result.

    Parameters
    ----------
    name
        Its name, with which a site file can replace its module (``programs``).
    spec, result
        Classes of ``SPEC.json`` and ``result.json``.
    module
        Module that ``python -m`` starts; empty: ``gfm_pipeline.apps.<name>``.
    """

    name: str
    spec: type[S]
    result: type[R]
    module: str = ""

    @property
    def path(self) -> str:
        """The module to start."""
        return self.module or f"gfm_pipeline.apps.{self.name}"


@dataclass(frozen=True)
class Structures:
    """Files of structures that a stage reads: how, and their digests by ``<stage>/<file name>``."""

    source: SourceSettings
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Context:
    """The inputs of decisions in addition to the state: settings, inputs, and paths."""

    workflow: WorkflowModel
    sources: tuple[SourceSettings, ...]
    source_digests: dict[str, str]  # "<source>/<file name>" -> SHA-256
    slots: int
    threads: int
    paths: CampaignPaths
    sizes: Mapping[str, tuple[SizeClass, ...]]  # of a stage's tasks; of the search, one per rung
    until: str | None = None  # the last stage to run; None: all stages run
    warm_start: tuple[Prior, ...] = ()  # results of an earlier search
    structures: Mapping[str, Structures] = field(default_factory=dict)  # by the stage that reads them itself
    earlier: EarlierEnsemble | None = None  # the ensemble that the campaign fine-tunes
    # Requests of the search under these settings, by stage and task: every decision needs them again.
    made: dict[tuple[str, str, str], AnyRequest] = field(default_factory=dict, init=False, compare=False, repr=False)
    # Facts derived from states of searches, by key, and outputs of stages, by name: updated on access.
    agendas: dict[str, Agenda] = field(default_factory=dict, init=False, compare=False, repr=False)
    openings: dict[str, tuple[tuple[Any, ...], StageOpened]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def size_of(self, request: AnyRequest) -> SizeClass:
        """Return the size of a task."""
        sizes = self.sizes[request.stage]
        return sizes[min(request.rung, len(sizes) - 1)]


@dataclass(frozen=True)
class TaskRequest(Generic[S, R]):
    """A task that should run: its name within the stage, its program and its spec."""

    key: str
    stage: str
    name: str
    program: Program[S, R]
    spec: S
    rung: int = 0


AnyRequest = TaskRequest[Any, Any]


class TaskQueue(Sequence[AnyRequest]):
    """Requests that are built on access."""

    @abstractmethod
    def of_each_rung(self) -> Sequence[AnyRequest]:
        """Return one request per rung."""


def of_each_size(tasks: Sequence[AnyRequest]) -> Sequence[AnyRequest]:
    """Return requests that include each size of ``tasks`` at least once."""
    if isinstance(tasks, TaskQueue):
        return tasks.of_each_rung()
    return list({(r.stage, r.rung): r for r in tasks}.values())


@dataclass(frozen=True)
class Proposal:
    """Candidates that should be proposed together; ``wave`` numbers such proposals."""

    key: str
    wave: int
    size: int


@dataclass(frozen=True)
class Ranking:
    """A search whose finalists should be ranked by their stored errors."""

    key: str


@dataclass(frozen=True)
class Step:
    """The next step of a campaign.

    ``events`` are decisions to record at once (then decide again). ``tasks`` are not running yet,
    most urgent first. An empty step means: wait for running tasks.
    """

    events: tuple[Event, ...] = ()
    tasks: Sequence[AnyRequest] = ()
    proposal: Proposal | None = None
    ranking: Ranking | None = None
    finished: bool = False
    failure: str | None = None


def to_start(stage: StageState, requests: Sequence[AnyRequest]) -> tuple[AnyRequest, ...]:
    """Return those of ``requests`` that neither run nor have ended."""
    return tuple(r for r in requests if is_to_start(stage, r.name))


def is_to_start(stage: StageState, name: str) -> bool:
    """Return whether a task neither runs nor has ended."""
    task = stage.tasks.get(name)
    return task is None or task.status is TaskStatus.TO_RETRY


def first_failure(stage: StageState, causes: Collection[Cause] | None = None) -> str | None:
    """Return why the first failed task failed, or None; with ``causes``, only tasks with these causes count."""
    for name in stage.failed:
        task = stage.tasks[name]
        cause = task.history[-1].cause if task.history else None
        if task.status is TaskStatus.FAILED and (causes is None or cause in causes):
            reason = task.history[-1].reason if task.history else "no reason recorded"
            tried = len(task.counted)
            return f"{task.name}: {reason}" if tried < 2 else f"{task.name}, {tried} attempts: {reason}"
    return None


def result_of(stage: StageState, name: str, program: Program[S, R]) -> R | None:
    """Return the result of a finished task, else None."""
    task = stage.tasks.get(name)
    if task is None or task.result is None or task.status is not TaskStatus.DONE:
        return None
    return task.decoded(program.result)


def stage_paths(context: Context, stage: StageState) -> StagePaths:
    """Return the folders of ``stage``."""
    return context.paths.stage(stage.stage, stage.key)
