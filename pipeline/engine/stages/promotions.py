"""Promotions of candidates from rung to rung, decided by the stopping policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gfm_pipeline.campaign.events import RungDecided
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.core.contracts.policies import STOPPING, make_policy
from gfm_pipeline.engine.stages.objectives import objectives_of
from gfm_pipeline.engine.stages.trials import objective_of, task_name
from gfm_pipeline.search.pareto import ranks
from gfm_pipeline.search.stopping import RungResults, StoppingPolicy

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import SearchModel


def _entrants(stage: StageState, wave: int, rung: int) -> tuple[str, ...] | None:
    """Return the candidates that enter a rung in a wave's decision, or None before their decision."""
    if rung == 0:
        proposed = stage.waves.get(wave)
        return None if proposed is None else tuple(c.name for c in proposed.candidates)
    before = stage.decisions.get((wave, rung - 1))
    return None if before is None else before.promoted


def rung_decision(search: SearchModel, stage: StageState, wave: int, rung: int) -> RungDecided:
    """Return the candidates of a wave that continue after a rung and those that stop, from complete results.

    The known facts of the rung are those of earlier decisions, and the results of the entrants.
    """
    policy = make_policy(STOPPING, search.stopping, StoppingPolicy)
    before = sorted(w for w, r in stage.decisions if r == rung)
    entrants = {w: _entrants(stage, w, rung) or () for w in (*before, wave)}
    names = [name for entered in entrants.values() for name in entered]
    results = {r: {name: objective_of(stage, name, r) for name in names} for r in range(rung + 1)}
    if len(search.objective) > 1:
        results[rung] = _ranked(stage, names, rung, search.objective)
    seconds = {rung: {name: stage.tasks[task_name(name, rung)].seconds for name in names}}
    promoted = frozenset(name for w in before for name in stage.decisions[w, rung].promoted)
    rungs, reduction = tuple(search.rungs), search.reduction
    verdict = policy.decide(RungResults(rung, rungs, results, seconds, entrants[wave], promoted, reduction))
    stopped = verdict.stopped
    if len(search.objective) > 1:
        what = " and ".join(search.objective)
        stopped = {name: f"{why} (by Pareto fronts of {what})" for name, why in stopped.items()}
    return RungDecided(stage.key, wave, rung, verdict.promoted, stopped)


def _ranked(stage: StageState, names: Sequence[str], rung: int, objectives: Sequence[str]) -> dict[str, float | None]:
    """Return the ranks of candidates by their Pareto fronts in place of their errors."""
    vectors = {name: objectives_of(stage, name, rung, objectives) for name in names}
    found = ranks({name: vector for name, vector in vectors.items() if vector is not None})
    return {name: found.get(name) for name in names}
