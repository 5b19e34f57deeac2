"""How many candidates a search has in each wave, and how many trials in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfm_pipeline.core.contracts.policies import STOPPING, make_policy
from gfm_pipeline.search.stopping import StoppingPolicy

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel


WAVES = 4  # waves an automatic search aims at
PROPOSALS = 16  # an asynchronous search proposes again when one in so many of its places has become free


def wave_size(wave: int | str, slots: int) -> int:
    """Return the size of a full wave; ``auto`` makes it as large as the site has slots."""
    return slots if wave == "auto" else int(wave)


def wave_sizes(candidates: int, wave: int | str, slots: int) -> list[int]:
    """Return the size of each wave."""
    size = wave_size(wave, slots)
    full, rest = divmod(candidates, size)
    return [size] * full + ([rest] if rest else [])


def wanted_now(left: int, at_a_time: int, unfinished: int) -> int:
    """Return how many candidates an asynchronous search should propose now, 0 for none yet.

    So many that all places are taken and a few wait for the next that becomes free. One proposal for every place
    that becomes free would take longer than the trainings on a machine with thousands of places.

    Parameters
    ----------
    left
        Candidates that may still be proposed.
    at_a_time
        Places.
    unfinished
        Trainings that run or wait.
    """
    together = max(1, at_a_time // PROPOSALS)
    missing = at_a_time + together - unfinished
    return min(left, missing) if missing >= min(left, together) else 0


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
