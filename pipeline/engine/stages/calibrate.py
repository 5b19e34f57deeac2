"""Calibrate: predicts with every member, then calibrates and evaluates the ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.events import Member, StageDone, StageFailedEvent
from gfm_pipeline.campaign.paths import StagePaths
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.evaluation import CalibrateResult, CalibrateSpec, MemberRef, PredictResult, PredictSpec
from gfm_pipeline.core.contracts.policies import ENSEMBLE
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
from gfm_pipeline.engine.resources.demand import Demand, SharedDemand
from gfm_pipeline.engine.stages import converge, ingest, search
from gfm_pipeline.engine.stages.base import Done, Records, Stage, Work
from gfm_pipeline.engine.stages.ingest import dataset_refs, test_set_refs

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel

NAME = "calibrate"
FIT = "fit"
PREDICT_PROGRAM = Program("calibrate.predict", PredictSpec, PredictResult)
FIT_PROGRAM = Program("calibrate.fit", CalibrateSpec, CalibrateResult)


def predict_name(member: str) -> str:
    """Return the name of the task that predicts with a member."""
    return f"predict-{member}"


def _predict(
    context: Context, stage: StageState, datasets: StageState, trained: StageState, member: Member
) -> AnyRequest:
    spec = PredictSpec(
        member=member.name,
        checkpoint=str(stage_paths(context, trained).checkpoint(member.name)),
        datasets=dataset_refs(context, datasets),
        output=str(stage_paths(context, stage).predictions(member.name)),
        threads=context.threads,
        test_sets=test_set_refs(context, datasets),
    )
    return TaskRequest(stage.key, NAME, predict_name(member.name), PREDICT_PROGRAM, spec)


def _fit(
    context: Context, stage: StageState, datasets: StageState, trained: StageState, members: tuple[Member, ...]
) -> AnyRequest:
    mine, theirs = stage_paths(context, stage), stage_paths(context, trained)
    spec = CalibrateSpec(
        members=tuple(
            MemberRef(m.name, str(theirs.checkpoint(m.name)), str(mine.predictions(m.name))) for m in members
        ),
        datasets=dataset_refs(context, datasets),
        level=context.workflow.calibrate.level,
        output=str(mine.ensemble),
        seed=context.workflow.seed,
        uncertainty=context.workflow.calibrate.uncertainty,
        test_sets=test_set_refs(context, datasets),
    )
    return TaskRequest(stage.key, NAME, FIT, FIT_PROGRAM, spec)


class Calibrate(Stage):
    """Calibrate: makes the members an ensemble whose intervals have the nominal coverage."""

    name = NAME
    after = converge.NAME
    optional = False

    def settings(self, context: Context) -> dict[str, Any]:
        """Return the settings of the calibrated ensemble, in addition to its members."""
        calibrate = context.workflow.calibrate
        # `uncertainty` is newer: its default is left out, so that the keys of earlier campaigns stay.
        exclude = {"uncertainty"} if calibrate.uncertainty == ENSEMBLE else None
        return {"seed": context.workflow.seed, **calibrate.model_dump(mode="json", exclude=exclude)}

    def advance(self, context: Context, stage: StageState, done: Done) -> Step:
        """Decide the next step of calibration."""
        if (failure := first_failure(stage)) is not None:
            return Step(events=(StageFailedEvent(stage.key, failure),))
        fit = result_of(stage, FIT, FIT_PROGRAM)
        if fit is not None:
            return Step(events=(StageDone(stage.key, {"ensemble": fit.digest}),))
        members, datasets, trained = done[search.NAME].members or (), done[ingest.NAME], done[converge.NAME]
        if all(result_of(stage, predict_name(m.name), PREDICT_PROGRAM) is not None for m in members):
            return Step(tasks=to_start(stage, [_fit(context, stage, datasets, trained, members)]))
        return Step(tasks=to_start(stage, [_predict(context, stage, datasets, trained, m) for m in members]))

    def folder_of(self, places: StagePaths, task: str) -> Path:
        """Return the ensemble, or the predictions of a member."""
        return places.ensemble if task == FIT else places.predictions(task.removeprefix("predict-"))

    def task_of(self, places: StagePaths, folder: Path) -> str:
        """Return the task that publishes the ensemble or predictions."""
        return FIT if folder == places.ensemble else predict_name(folder.name)

    def output_tasks(self, stage: StageState) -> list[str]:  # noqa: ARG002 - always the one
        """Return the fit."""
        return [FIT]

    def program_of(self, task: str) -> Program[Any, Any]:
        """Return the program of a task."""
        return FIT_PROGRAM if task == FIT else PREDICT_PROGRAM

    def demand(self, workflow: WorkflowModel) -> Demand:
        """Return the demand of predicting with all members at a time."""
        return SharedDemand(workflow.converge.members, workflow.resources.calibrate.cores, gpu=True)

    def work(self, context: Context, state: CampaignState) -> Work:  # noqa: ARG002 - settings alone say it
        """Return the number of members and the level of the intervals."""
        members, level = context.workflow.converge.members, context.workflow.calibrate.level
        return Work(f"predictions of {members} members, then calibration at {level:.0%}", members + 1)

    def expected_tasks(self, state: CampaignState, stage: StageState) -> int | None:  # noqa: ARG002
        """Return the number of members plus one."""
        return converge.member_count(state) + 1

    def describe(self, stage: StageState, records: Records) -> str:  # noqa: ARG002
        """Return whether there is an ensemble."""
        return "ensemble published" if stage.outputs else "predicting"
