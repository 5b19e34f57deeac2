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
from gfm_pipeline.engine.decisions.requests import Context, Program, Step

if TYPE_CHECKING:  # for annotations alone, so that looking at a campaign does not wait for it
    from pydantic import BaseModel

    from gfm_pipeline.engine.resources.demand import Demand
    from gfm_pipeline.workflow.schema import WorkflowModel

Done = Mapping[str, StageState]  # the stages before one, by name; all have their outputs


@dataclass(frozen=True)
class Work:
    """What a stage has to do when nothing is done yet: in words, and its number of tasks where it is known."""

    words: str
    tasks: int | None


@dataclass(frozen=True)
class Records:
    """Records that sources are known to have by now, in all; ``complete`` when no source is read any more."""

    read: int = 0
    set_aside: int = 0
    datasets: int = 0
    complete: bool = False


class Stage(ABC):
    """One stage of a campaign. Every method is a pure function of its arguments.

    Attributes
    ----------
    name
        The stage's name, which is also that of its section in the workflow file.
    after
        Name of the stage it follows; '' for the first one.
    code_version
        Raised when the stage's code makes something else from the same settings and inputs.
    trains
        Whether its tasks are trainings: their rates bound what a campaign may cost.
    optional
        Whether it runs only where the workflow has its section, as stages of other packages do.
    section, resources_section
        Pydantic models of ``<name>:`` and ``resources.<name>:`` in the workflow file, where the schema of workflows
        does not declare them itself.
    """

    name: ClassVar[str]
    after: ClassVar[str]
    code_version: ClassVar[int] = 1
    trains: ClassVar[bool] = False
    optional: ClassVar[bool] = True
    section: ClassVar[type[BaseModel] | None] = None
    resources_section: ClassVar[type[BaseModel] | None] = None

    @abstractmethod
    def settings(self, context: Context) -> dict[str, Any]:
        """Return the settings that the stage's results depend on, beside its inputs, as plain data."""

    def inputs(self, context: Context) -> dict[str, str]:  # noqa: ARG002 - most stages read only what earlier ones made
        """Return the digests of inputs that no earlier stage made, by name."""
        return {}

    @abstractmethod
    def advance(self, context: Context, stage: StageState, done: Done) -> Step:
        """Return the next step of the stage: events to record, or tasks to start, or nothing but waiting."""

    def same_results(self, opened: StageOpened, earlier: StageState) -> bool:  # noqa: ARG002 - most depend on all they say
        """Return whether an earlier stage of another key has what this one would make: what differs is no matter."""
        return False

    def may_be_curtailed(self, context: Context, stage: StageState) -> bool:  # noqa: ARG002 - most need all they do
        """Return whether the stage can end with what it has, when a budget is spent."""
        return False

    def takes_over(self, opened: StageOpened, earlier: StageState) -> TakenOver | None:  # noqa: ARG002 - most take none
        """Return what the stage, opened anew, may use of an earlier one whose key is another; None: nothing."""
        return None

    @abstractmethod
    def folder_of(self, places: StagePaths, task: str) -> Path:
        """Return the folder that a task publishes."""

    @abstractmethod
    def task_of(self, places: StagePaths, folder: Path) -> str:
        """Return the task that publishes ``folder``: the inverse of `folder_of`."""

    @abstractmethod
    def output_tasks(self, stage: StageState) -> list[str]:
        """Return the tasks that made the outputs of a stage that is done."""

    @abstractmethod
    def program_of(self, task: str) -> Program[Any, Any]:
        """Return the program of a task."""

    @abstractmethod
    def demand(self, workflow: WorkflowModel) -> Demand:
        """Return what the stage's tasks ask of a machine."""

    @abstractmethod
    def work(self, context: Context, state: CampaignState) -> Work:
        """Return what there is to do when nothing of the stage is done."""

    def graphs(self, workflow: WorkflowModel) -> int:  # noqa: ARG002 - stages that train nothing see none
        """Return the most graphs that its trainings see."""
        return 0

    def least_graphs(self, workflow: WorkflowModel) -> int:  # noqa: ARG002 - stages that train nothing see none
        """Return the fewest graphs that its trainings must see for the stage to be done."""
        return 0

    def graphs_of(self, workflow: WorkflowModel, task: str) -> int:  # noqa: ARG002 - as above
        """Return the graphs that a task is expected to see: the fewest, where that depends on how it goes."""
        return 0

    def rung_of(self, task: str) -> int:  # noqa: ARG002 - most tasks have one size
        """Return the rung of a task, which decides its size."""
        return 0

    def checkpoints(self, workflow: WorkflowModel) -> int:  # noqa: ARG002 - stages that train nothing keep none
        """Return the most checkpoints that it publishes."""
        return 0

    @abstractmethod
    def expected_tasks(self, state: CampaignState, stage: StageState) -> int | None:
        """Return how many tasks the stage will have; None where that is not known beforehand."""

    @abstractmethod
    def describe(self, stage: StageState, records: Records) -> str:
        """Return where the stage stands, in words, for status and report."""

    def describe_result(self, result: Any) -> str:  # noqa: ARG002 - where there is nothing to say but that it is done
        """Return a result of one of its programs in words, for the line of progress."""
        return "done"

    def warnings(self, result: Any) -> list[str]:  # noqa: ARG002 - most results warn of nothing
        """Return what a result warns of."""
        return []
