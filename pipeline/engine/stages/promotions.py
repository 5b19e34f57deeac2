"""Promotions of candidates from rung to rung, decided by the stopping policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfm_pipeline.campaign.events import RungDecided
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.core.contracts.policies import STOPPING, make_policy
from gfm_pipeline.engine.stages.trials import objective_of, task_name
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
    seconds = {rung: {name: stage.tasks[task_name(name, rung)].seconds for name in names}}
    promoted = frozenset(name for w in before for name in stage.decisions[w, rung].promoted)
    rungs, reduction = tuple(search.rungs), search.reduction
    verdict = policy.decide(RungResults(rung, rungs, results, seconds, entrants[wave], promoted, reduction))
    return RungDecided(stage.key, wave, rung, verdict.promoted, verdict.stopped)
