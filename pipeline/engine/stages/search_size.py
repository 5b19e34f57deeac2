"""How many candidates a search has in each wave, and how many trials in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfm_pipeline.core.contracts.policies import STOPPING, make_policy
from gfm_pipeline.search.stopping import StoppingPolicy

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel


WAVES = 4  # waves an automatic search aims at


def wave_sizes(candidates: int, wave: int | str, slots: int) -> list[int]:
    """Return the size of each wave; ``auto`` makes a wave as large as the site has slots."""
    size = slots if wave == "auto" else int(wave)
    full, rest = divmod(candidates, size)
    return [size] * full + ([rest] if rest else [])


def rung_counts(workflow: WorkflowModel) -> tuple[int, ...]:
    """Return the most candidates that train to each rung."""
    search = workflow.search
    policy = make_policy(STOPPING, search.stopping, StoppingPolicy)
    return tuple(policy.most(search.candidates, rung, search.reduction) for rung in range(len(search.rungs)))


def trials(workflow: WorkflowModel) -> int:
    """Return how many candidates are proposed: all that are asked for, or as many as the budget has trials."""
    budget = workflow.budget.trials
    return workflow.search.candidates if budget is None else min(workflow.search.candidates, budget)


def wave_target(workflow: WorkflowModel) -> int:
    """Return how many candidates should train at a time."""
    search = workflow.search
    return min(search.wave, search.candidates) if isinstance(search.wave, int) else -(-search.candidates // WAVES)
