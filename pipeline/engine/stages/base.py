"""The interface of stages: one object for the engine, the plan, the report and the progress.

A stage of another package is an object of a class that inherits from `Stage`, named by an entry point of the group
``gfm_pipeline.stages``. It runs in campaigns whose workflow has a section of its name (docs/add-a-stage.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gfm_pipeline.campaign.events import StageOpened, TakenOver
from gfm_pipeline.campaign.paths import StagePaths
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.data import is_test_set
from gfm_pipeline.engine.decisions.requests import Context, Program, Step

if TYPE_CHECKING:  # only for annotations: viewing a campaign does not need its slow import
    from pydantic import BaseModel

    from gfm_pipeline.engine.resources.demand import Demand
    from gfm_pipeline.workflow.schema import WorkflowModel
    from gfm_pipeline.workflow.source_schema import SourceModel

Done = Mapping[str, StageState]  # earlier stages by name; all have their outputs


@dataclass(frozen=True)
class Work:
    """The whole work of a stage: in words, and as a number of tasks if known."""

    words: str
    tasks: int | None


@dataclass(frozen=True)
class Misfit:
    """A setting of a stage's section, by its keys, that does not fit the rest of the workflow, and the fix."""

    keys: tuple[str, ...]
    message: str
    hint: str


@dataclass(frozen=True)
class Records:
    """Number of records found so far in all sources; ``complete`` when all sources have been read."""

    read: int = 0
    set_aside: int = 0
    datasets: int = 0
    complete: bool = False


class Stage(ABC):
    """One stage of a campaign. Every method is a pure function of its arguments.

    Attributes
    ----------
    name
        Name of the stage, and of its section in the workflow file.
    after
        Name of the previous stage; '' for the first stage.
    code_version
        Increased when the stage's code gives other results for the same settings and inputs.
    trains
        Whether its tasks are trainings, whose rates limit the cost of a campaign.
    optional
        Whether it runs only if the workflow has its section, as for stages of other packages.
    section, resources_section
        Pydantic models of ``<name>:`` and ``resources.<name>:`` in the workflow file, if the schema of workflows
        does not declare them. ``section`` may be the name ``module:class`` of one, which commands that read no
        workflow then do not import.
    """

    name: ClassVar[str]
    after: ClassVar[str]
    code_version: ClassVar[int] = 1
    trains: ClassVar[bool] = False
    optional: ClassVar[bool] = True
    section: ClassVar[type[BaseModel] | str | None] = None
    resources_section: ClassVar[type[BaseModel] | str | None] = None

    @abstractmethod
    def settings(self, context: Context) -> dict[str, Any]:
        """Return the settings that determine the stage's results, in addition to its inputs, as plain data."""

    def inputs(self, context: Context) -> dict[str, str]:  # noqa: ARG002 - most stages read only what earlier ones made
        """Return the digests of inputs from outside the campaign, by name."""
        return {}

    def misfit(self, workflow: WorkflowModel) -> Misfit | None:  # noqa: ARG002 - most sections fit every workflow
        """Return a setting of the section that does not fit the rest of the workflow; None: all fit."""
        return None

    def structures(self, workflow: WorkflowModel) -> SourceModel | None:  # noqa: ARG002 - most read none but ingest's
        """Return files of structures that the stage reads itself; they are in ``Context.structures`` by its name."""
        return None

    def needs(self, outputs: Mapping[str, str]) -> Mapping[str, str]:
        """Return the ``outputs`` of an earlier stage on which the results depend.

        Trainings depend on all outputs apart from test sets, so a further test set trains nothing again.
        """
        return {name: digest for name, digest in outputs.items() if not is_test_set(name)} if self.trains else outputs

    @abstractmethod
    def advance(self, context: Context, stage: StageState, done: Done) -> Step:
        """Return the next step of the stage: events to record, tasks to start, or an empty step for waiting."""

    def same_results(self, opened: StageOpened, earlier: StageState) -> bool:  # noqa: ARG002 - most depend on all they say
        """Return whether an earlier stage with another key has the results of this one, in spite of the differences."""
        return False

    def nodes_left(self, context: Context, stage: StageState) -> int | None:  # noqa: ARG002 - most stages end all at once
        """Return the most nodes that the unfinished tasks, and those that follow from them, can keep busy.

        None: the stage has not come to its last tasks yet.
        """
        return None

    def seconds_left(self, context: Context, stage: StageState, now: float) -> float:  # noqa: ARG002 - as above
        """Return the expected time (s) to the end of the last tasks; ``now`` is Unix time."""
        return 0.0

    def may_be_curtailed(self, context: Context, stage: StageState) -> bool:  # noqa: ARG002 - most need all they do
        """Return whether the stage can end with its present results when a budget is spent."""
        return False

    def takes_over(self, opened: StageOpened, earlier: StageState) -> TakenOver | None:  # noqa: ARG002 - most take none
        """Return the results of an earlier stage with another key that this new stage can use; None: no results."""
        return None

    @abstractmethod
    def folder_of(self, places: StagePaths, task: str) -> Path:
        """Return the folder that a task publishes."""

    @abstractmethod
    def task_of(self, places: StagePaths, folder: Path) -> str:
        """Return the task that publishes ``folder``: the inverse of `folder_of`."""

    @abstractmethod
    def output_tasks(self, stage: StageState) -> list[str]:
        """Return the tasks that made the outputs of a finished stage."""

    @abstractmethod
    def program_of(self, task: str) -> Program[Any, Any]:
        """Return the program of a task."""

    @abstractmethod
    def demand(self, workflow: WorkflowModel) -> Demand:
        """Return the demand of the stage's tasks on a machine."""

    @abstractmethod
    def work(self, context: Context, state: CampaignState) -> Work:
        """Return the whole work of the stage."""

    def graphs(self, workflow: WorkflowModel) -> int:  # noqa: ARG002 - stages that train nothing see none
        """Return the largest number of graphs in its trainings."""
        return 0

    def least_graphs(self, workflow: WorkflowModel) -> int:  # noqa: ARG002 - stages that train nothing see none
        """Return the smallest number of training graphs with which the stage can finish."""
        return 0

    def graphs_of(self, workflow: WorkflowModel, task: str) -> int:  # noqa: ARG002 - as above
        """Return the expected number of graphs of a task: the smallest number if it depends on the training."""
        return 0

    def rung_of(self, task: str) -> int:  # noqa: ARG002 - most tasks have one size
        """Return the rung of a task, which decides its size."""
        return 0

    def checkpoints(self, workflow: WorkflowModel) -> int:  # noqa: ARG002 - stages that train nothing keep none
        """Return the largest number of checkpoints that the stage publishes."""
        return 0

    @abstractmethod
    def expected_tasks(self, state: CampaignState, stage: StageState) -> int | None:
        """Return the number of tasks of the stage; None if it is not known in advance."""

    @abstractmethod
    def describe(self, stage: StageState, records: Records) -> str:
        """Return the state of the stage, in words, for status and report."""

    def describe_result(self, result: Any) -> str:  # noqa: ARG002 - where there is nothing to say but that it is done
        """Describe a result of one of its programs, for the line of progress."""
        return "done"

    def warnings(self, result: Any) -> list[str]:  # noqa: ARG002 - most results warn of nothing
        """Return the warnings in a result."""
        return []
