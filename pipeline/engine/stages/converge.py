"""Converge: each member trained on from its checkpoint until its own convergence criterion is met."""

from __future__ import annotations

from typing import Any

from gfm_pipeline.campaign.events import Member, StageDone, StageFailed, StageName
from gfm_pipeline.campaign.state import StageState
from gfm_pipeline.core.contracts.training import Convergence, TrainSpec, settings_of
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
from gfm_pipeline.engine.stages.search import candidate_seed, task_name


def settings(context: Context) -> dict[str, Any]:
    """Return what the converged members depend on, besides the chosen candidates."""
    converge = context.workflow.converge.model_dump(mode="json", exclude={"members", "max_per_algorithm"})
    return {"seed": context.workflow.seed, **converge}


def advance(context: Context, stage: StageState, ingest: StageState, search: StageState) -> Step:
    """Decide the next step of convergence."""
    if (failure := first_failure(stage)) is not None:
        return Step(events=(StageFailed(stage.key, failure),))
    members = search.members or ()
    results = {m.name: result_of(stage, m.name) for m in members}
    diverged = [name for name, task in stage.tasks.items() if task.diverged]
    if diverged:
        reason = f"{', '.join(diverged)} diverged; lower learning_rate or raise search.rungs"
        return Step(events=(StageFailed(stage.key, reason),))
    if all(results.values()):
        outputs = {name: str(result["digest"]) for name, result in results.items() if result}
        return Step(events=(StageDone(stage.key, outputs),))
    return Step(tasks=to_start(stage, [_train(context, stage, ingest, search, m) for m in members]))


def _train(context: Context, stage: StageState, ingest: StageState, search: StageState, member: Member) -> TaskRequest:
    converge = context.workflow.converge
    model, optimiser = settings_of(member.settings)
    spec = TrainSpec(
        task=member.name,
        model=model,
        optimiser=optimiser,
        datasets=dataset_refs(context, ingest),
        seed=candidate_seed(context, member.candidate),
        output=str(stage_paths(context, stage).checkpoint(member.name)),
        convergence=Convergence(
            check_every=converge.check_every,
            patience=converge.patience,
            min_delta=converge.min_delta,
            max_graphs=converge.max_graphs,
            anneal_fraction=converge.anneal_fraction,
        ),
        checkpoint=str(stage_paths(context, search).checkpoint(task_name(member.candidate, member.rung))),
        validate_every=converge.check_every,
        validation_limit=context.workflow.search.validation_limit,
        threads=context.threads,
    )
    return TaskRequest(stage.key, StageName.CONVERGE, member.name, Program.TRAIN, spec)
