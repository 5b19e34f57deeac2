"""``optuna_journal.log``: the candidates of a search, for optuna-dashboard and Optuna's own tools."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.stages.search import NAME
from gfm_pipeline.engine.stages.trials import task_name
from gfm_pipeline.report.view import CandidateView
from gfm_pipeline.search.optuna_journal import TrialRecord, TrialState, journal_text
from gfm_pipeline.search.space import SearchSpace
from gfm_pipeline.workflow.space import SpaceModel

FILE = "optuna_journal.log"
STATES = {
    "stopped": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "waiting": TrialState.RUNNING,
    "interrupted": TrialState.RUNNING,
}  # all others are complete


def optuna_export(state: CampaignState, candidates: Sequence[CandidateView]) -> str:
    """Return the journal of a campaign's search; '' if it has no candidates, or an unknown space."""
    stage = state.stage(NAME)
    space = None if stage is None or not candidates else _space(stage)
    if stage is None or space is None or state.created is None:
        return ""
    return journal_text(state.created.name, space, [_record(stage, candidate) for candidate in candidates])


def _space(stage: StageState) -> SearchSpace | None:
    try:
        return SpaceModel.model_validate(stage.settings["space"]).compile()
    except (ValidationError, KeyError):  # e.g. of an algorithm that is not installed here
        return None


def _record(stage: StageState, candidate: CandidateView) -> TrialRecord:
    tasks = [stage.tasks[name] for r in candidate.rungs if (name := task_name(candidate.name, r.rung)) in stage.tasks]
    objectives = [(rung.graphs, rung.objective) for rung in candidate.rungs if rung.objective is not None]
    notes = {"candidate": candidate.name, "wave": candidate.wave, "status": candidate.status}
    notes["outcome"] = candidate.outcome
    if candidate.energy is not None:
        notes |= {"kwh": candidate.energy.kwh, "kwh_label": str(candidate.energy.label)}
    return TrialRecord(
        candidate.settings,
        objectives,
        STATES.get(candidate.status, TrialState.COMPLETE),
        tasks[0].history[0].started if tasks and tasks[0].history else stage.opened,
        tasks[-1].ended if tasks else None,
        notes,
    )
