"""Calibrate: predictions of every member, then the calibrated ensemble and its evaluation."""

from __future__ import annotations

from typing import Any

from gfm_pipeline.campaign.events import Member, StageDone, StageFailed, StageName
from gfm_pipeline.campaign.state import StageState
from gfm_pipeline.core.contracts.evaluation import CalibrateSpec, MemberRef, PredictSpec
from gfm_pipeline.engine.decisions.requests import (
    Context,
    Program,
    Step,
    TaskRequest,
    first_failure,
    result_of,
    stage_paths,
    to_start,
)
from gfm_pipeline.engine.stages.ingest import dataset_refs

FIT = "fit"


def settings(context: Context) -> dict[str, Any]:
    """Return what the calibrated ensemble depends on, besides its members."""
    return {"seed": context.workflow.seed, **context.workflow.calibrate.model_dump(mode="json")}


def predict_name(member: str) -> str:
    """Return the name of the task that predicts with a member."""
    return f"predict-{member}"


def advance(context: Context, stage: StageState, ingest: StageState, search: StageState, converge: StageState) -> Step:
    """Decide the next step of calibration."""
    if (failure := first_failure(stage)) is not None:
        return Step(events=(StageFailed(stage.key, failure),))
    fit = result_of(stage, FIT)
    if fit is not None:
        return Step(events=(StageDone(stage.key, {"ensemble": fit["digest"]}),))
    members = search.members or ()
    if all(result_of(stage, predict_name(m.name)) for m in members):
        return Step(tasks=to_start(stage, [_fit(context, stage, ingest, converge, members)]))
    return Step(tasks=to_start(stage, [_predict(context, stage, ingest, converge, m) for m in members]))


def _predict(
    context: Context, stage: StageState, ingest: StageState, converge: StageState, member: Member
) -> TaskRequest:
    spec = PredictSpec(
        member=member.name,
        checkpoint=str(stage_paths(context, converge).checkpoint(member.name)),
        datasets=dataset_refs(context, ingest),
        output=str(stage_paths(context, stage).predictions(member.name)),
        threads=context.threads,
    )
    return TaskRequest(stage.key, StageName.CALIBRATE, predict_name(member.name), Program.PREDICT, spec)


def _fit(
    context: Context, stage: StageState, ingest: StageState, converge: StageState, members: tuple[Member, ...]
) -> TaskRequest:
    mine, theirs = stage_paths(context, stage), stage_paths(context, converge)
    spec = CalibrateSpec(
        members=tuple(
            MemberRef(m.name, str(theirs.checkpoint(m.name)), str(mine.predictions(m.name))) for m in members
        ),
        datasets=dataset_refs(context, ingest),
        level=context.workflow.calibrate.level,
        output=str(mine.ensemble),
        seed=context.workflow.seed,
    )
    return TaskRequest(stage.key, StageName.CALIBRATE, FIT, Program.FIT, spec)
