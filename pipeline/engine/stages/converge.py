"""Converge: trains each member from its checkpoint until the member meets its own convergence criterion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.events import Member, StageDone, StageFailedEvent, StageOpened, TakenOver
from gfm_pipeline.campaign.paths import StagePaths
from gfm_pipeline.campaign.stage_state import StageState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.training import Convergence, TrainSpec, settings_of
from gfm_pipeline.core.contracts.training_result import StopReason, TrainResult
from gfm_pipeline.engine.decisions.requests import (
    AnyRequest,
    Context,
    Program,
    Step,
    TaskRequest,
    first_failure,
    result_of,
    stage_paths,
    to_start,
)
from gfm_pipeline.engine.resources.demand import Demand, TrainingDemand
from gfm_pipeline.engine.stages import ingest, search
from gfm_pipeline.engine.stages.base import Done, Records, Stage, Work
from gfm_pipeline.engine.stages.ingest import dataset_refs
from gfm_pipeline.engine.stages.search_members import chosen_policies
from gfm_pipeline.engine.stages.trials import (
    TRAIN,
    candidate_seed,
    describe_training,
    ended_tasks,
    node_list,
    task_name,
)

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel

NAME = "converge"


def member_count(state: CampaignState) -> int:
    """Return the number of members that the search of a campaign chose; 0 while it has chosen none."""
    found = state.stage(search.NAME)
    return 0 if found is None else len(found.members or ())


def _train(context: Context, stage: StageState, done: Done, member: Member) -> AnyRequest:
    converge = context.workflow.converge
    model, optimiser = settings_of(member.settings)
    spec = TrainSpec(
        task=member.name,
        model=model,
        optimiser=optimiser,
        datasets=dataset_refs(context, done[ingest.NAME]),
        seed=candidate_seed(context, member.candidate),
        output=str(stage_paths(context, stage).checkpoint(member.name)),
        convergence=Convergence(
            check_every=converge.check_every,
            patience=converge.patience,
            min_delta=converge.min_delta,
            max_graphs=converge.max_graphs,
            anneal_fraction=converge.anneal_fraction,
            criterion=converge.criterion.name,
            options=dict(converge.criterion.options),
        ),
        checkpoint=str(stage_paths(context, done[search.NAME]).checkpoint(task_name(member.candidate, member.rung))),
        validate_every=converge.check_every,
        validation_limit=context.workflow.search.validation_limit,
        threads=context.threads,
        targets=context.workflow.targets,
        attributes=context.workflow.attributes,
    )
    return TaskRequest(stage.key, NAME, member.name, TRAIN, spec)


def _same_start(member: str, now: dict[str, str], before: dict[str, str]) -> bool:
    """Return whether a member starts from the same checkpoint as before, on the same datasets."""
    datasets = [{k: v for k, v in inputs.items() if k.startswith(f"{ingest.NAME}/")} for inputs in (now, before)]
    start = f"{search.NAME}/{member}"
    return datasets[0] == datasets[1] and start in now and now.get(start) == before.get(start)


class Converge(Stage):
    """Converge: continues the training of each chosen candidate until it meets its own criterion."""

    name = NAME
    after = search.NAME
    trains = True
    optional = False

    def settings(self, context: Context) -> dict[str, Any]:
        """Return the settings of the converged members, in addition to the chosen candidates."""
        converge = context.workflow.converge
        chosen_elsewhere = {"members", "max_per_algorithm", "selection", "criterion"}
        settings = converge.model_dump(mode="json", exclude=chosen_elsewhere)
        return {"seed": context.workflow.seed, **settings, **chosen_policies(converge, ("criterion",))}

    def advance(self, context: Context, stage: StageState, done: Done) -> Step:
        """Decide the next step of convergence."""
        if (failure := first_failure(stage)) is not None:
            return Step(events=(StageFailedEvent(stage.key, failure),))
        members = done[search.NAME].members or ()
        results = {m.name: result_of(stage, m.name, TRAIN) for m in members}
        diverged = [name for name, task in stage.tasks.items() if task.diverged]
        if diverged:
            reason = f"{', '.join(diverged)} diverged; lower learning_rate or raise search.rungs"
            return Step(events=(StageFailedEvent(stage.key, reason),))
        if all(results.values()):
            outputs = {name: str(result.digest) for name, result in results.items() if result}
            return Step(events=(StageDone(stage.key, outputs),))
        return Step(tasks=to_start(stage, [_train(context, stage, done, m) for m in members]))

    def nodes_left(self, context: Context, stage: StageState) -> int | None:
        """Return the nodes of the members that have not converged."""
        done = sum(task.status is TaskStatus.DONE for task in stage.tasks.values())
        return context.sizes[NAME][-1].nodes_of(context.workflow.converge.members - done)

    def seconds_left(self, context: Context, stage: StageState, now: float) -> float:  # noqa: ARG002 - times alone say it
        """Return how long the running members have trained: nobody knows when they converge."""
        return max((now - t.started for t in stage.tasks.values() if t.status is TaskStatus.RUNNING), default=0.0)

    def takes_over(self, opened: StageOpened, earlier: StageState) -> TakenOver | None:
        """Return the members that start from the same checkpoint, with the same settings, on the same datasets."""
        if opened.settings != earlier.settings:
            return None
        reused = [name for name in ended_tasks(earlier) if _same_start(name, opened.inputs, earlier.inputs)]
        return TakenOver(earlier.key, tuple(reused)) if reused else None

    def folder_of(self, places: StagePaths, task: str) -> Path:
        """Return the final checkpoint of a member."""
        return places.checkpoint(task)

    def task_of(self, places: StagePaths, folder: Path) -> str:  # noqa: ARG002 - checkpoints bear the names of tasks
        """Return the member whose checkpoint it is."""
        return folder.name

    def output_tasks(self, stage: StageState) -> list[str]:
        """Return the members."""
        return list(stage.outputs or ())

    def program_of(self, task: str) -> Program[Any, Any]:  # noqa: ARG002 - all tasks train
        """Return the trainer."""
        return TRAIN

    def demand(self, workflow: WorkflowModel) -> Demand:
        """Return the demand of all members at a time."""
        requested, members = workflow.resources.converge, workflow.converge.members
        return TrainingDemand(members, (members,), node_list(requested.nodes), requested.ranks_per_node)

    def work(self, context: Context, state: CampaignState) -> Work:  # noqa: ARG002 - settings alone say it
        """Return the number of members and the largest number of graphs per member."""
        converge = context.workflow.converge
        words = f"{converge.members} members, each until it converges, at most {converge.max_graphs:,} graphs"
        return Work(words, converge.members)

    def graphs(self, workflow: WorkflowModel) -> int:
        """Return the number of graphs if all members reach their limit."""
        converge = workflow.converge
        return converge.members * int(converge.max_graphs * (1 + converge.anneal_fraction))

    def least_graphs(self, workflow: WorkflowModel) -> int:
        """Return the number of graphs if all members converge at the first opportunity."""
        return workflow.converge.members * self.graphs_of(workflow, "")

    def graphs_of(self, workflow: WorkflowModel, task: str) -> int:  # noqa: ARG002 - of every member
        """Return the number of graphs of a member that converges at the first opportunity."""
        converge = workflow.converge
        first = min(converge.max_graphs, (converge.patience + 1) * converge.check_every)
        return int(first * (1 + converge.anneal_fraction))

    def checkpoints(self, workflow: WorkflowModel) -> int:
        """Return two per member: its own, and its copy in the ensemble."""
        return 2 * workflow.converge.members

    def expected_tasks(self, state: CampaignState, stage: StageState) -> int | None:  # noqa: ARG002
        """Return the number of members."""
        return member_count(state)

    def describe(self, stage: StageState, records: Records) -> str:  # noqa: ARG002
        """Return the numbers of members that converged and that reached their limit."""
        ended = [result.stop_reason for t in stage.tasks.values() if (result := t.decoded(TrainResult)) is not None]
        limited = ended.count(StopReason.LIMIT)
        at_limit = f", {limited} at {'its' if limited == 1 else 'their'} limit" if limited else ""
        return f"{ended.count(StopReason.CONVERGED)} converged{at_limit}" if ended else "training members on"

    def describe_result(self, result: Any) -> str:
        """Return how a training ended."""
        return describe_training(result)
