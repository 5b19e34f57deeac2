"""Chooses the members from the finalists of a search by the selection policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.events import (
    Event,
    Member,
    MembersSelected,
    StageDone,
    StageFailedEvent,
)
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.core.contracts.policies import SELECTIONS, UNSAID, PolicyChoice, make_policy
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.decisions.requests import (
    Context,
    Ranking,
    Step,
    result_of,
    stage_paths,
)
from gfm_pipeline.engine.stages.trials import (
    TRAIN,
    objective_of,
    task_name,
)
from gfm_pipeline.search.selection import ErrorSelection, Finalist, Selection, passed_over, standing
from gfm_pipeline.search.selection_question import FinalistFolder

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import ConvergeModel, SearchModel

SELECTION = ("selection",)


def chosen_policies(section: SearchModel | ConvergeModel, names: Sequence[str]) -> dict[str, Any]:
    """Return the policies of a section, except implicit defaults of earlier versions (`UNSAID`)."""
    chosen: dict[str, PolicyChoice] = {name: getattr(section, name) for name in names}
    return {name: to_plain(choice) for name, choice in chosen.items() if choice != PolicyChoice(UNSAID[name], {})}


def _selection(context: Context) -> dict[str, Any]:
    converge = context.workflow.converge
    cap = {} if converge.max_per_algorithm is None else {"max_per_algorithm": converge.max_per_algorithm}
    return {"count": converge.members, **cap, **chosen_policies(converge, SELECTION)}


def _finalists(context: Context, stage: StageState) -> list[Finalist]:
    """Return the candidates with a finite objective at some rung, with the objective of the last rung."""
    rungs = context.workflow.search.rungs
    finalists = []
    for candidate in stage.candidates().values():
        reached = [r for r in range(len(rungs)) if objective_of(stage, candidate.name, r) is not None]
        if reached:
            value = objective_of(stage, candidate.name, reached[-1]) or 0.0
            finalists.append(Finalist(candidate.name, reached[-1], value, str(candidate.settings["algorithm"])))
    return finalists


def selection_of(context: Context) -> Selection:
    """Return the selection of a campaign."""
    return make_policy(SELECTIONS, context.workflow.converge.selection, Selection)


def checkpoints(context: Context, stage: StageState) -> list[FinalistFolder]:
    """Return the finalists with their checkpoints."""
    places = stage_paths(context, stage)
    return [FinalistFolder(f, str(places.checkpoint(task_name(f.name, f.rung)))) for f in _finalists(context, stage)]


def closing(context: Context, stage: StageState) -> Step:
    """Return the end of a search, or the request to rank its finalists first."""
    enough = len(_finalists(context, stage)) >= context.workflow.converge.members
    if enough and stage.ranked is None and isinstance(selection_of(context), ErrorSelection):
        return Step(ranking=Ranking(stage.key))
    return Step(events=finish(context, stage))


def finish(context: Context, stage: StageState) -> tuple[Event, ...]:
    """Choose the members and close the stage, or fail it."""
    candidates, finalists = stage.candidates(), _finalists(context, stage)
    selection = _selection(context)
    if len(finalists) < selection["count"]:
        reason = (
            f"only {len(finalists)} of {len(candidates)} candidates ended with a finite objective, "
            f"{selection['count']} members are wanted"
        )
        return (StageFailedEvent(stage.key, reason),)
    choice, ranked = selection_of(context), stage.ranked
    if ranked is not None and ranked.weights and isinstance(choice, ErrorSelection):
        known, reasons = {f.name: f for f in finalists}, {**ranked.unread, **ranked.left_out}
        chosen = tuple(sorted((known[name] for name in ranked.weights), key=standing))
        over = {name: reasons.get(name, why) for name, why in passed_over(finalists, chosen).items()}
    else:
        chosen = choice.choose(finalists, selection["count"], selection.get("max_per_algorithm", selection["count"]))
        over = passed_over(finalists, chosen)
    members = tuple(
        Member(f"m{i:02d}", f.name, f.rung, f.objective, candidates[f.name].settings) for i, f in enumerate(chosen)
    )
    trained = {m.name: result_of(stage, task_name(m.candidate, m.rung), TRAIN) for m in members}
    outputs = {name: str(result.digest) for name, result in trained.items() if result is not None}
    return (MembersSelected(stage.key, members, over), StageDone(stage.key, outputs))
