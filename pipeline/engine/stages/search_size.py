"""The number of candidates per wave of a search, and the total number of trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfm_pipeline.core.contracts.policies import STOPPING, make_policy
from gfm_pipeline.search.stopping import StoppingPolicy

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel


WAVES = 4  # number of waves in an automatic search
PROPOSALS = 16  # an asynchronous search proposes again when one in so many places has become free


def wave_size(wave: int | str, slots: int) -> int:
    """Return the size of a full wave; ``auto``: the number of slots of the site."""
    return slots if wave == "auto" else int(wave)


def wave_sizes(candidates: int, wave: int | str, slots: int) -> list[int]:
    """Return the size of each wave."""
    size = wave_size(wave, slots)
    full, rest = divmod(candidates, size)
    return [size] * full + ([rest] if rest else [])


def wanted_now(left: int, at_a_time: int, unfinished: int) -> int:
    """Return the number of candidates that an asynchronous search should propose now; 0: none yet.

    The number fills all places and lets a few candidates wait for the next free places. One proposal per free place
    would take longer than the trainings on a machine with thousands of places.

    Parameters
    ----------
    left
        Candidates that may still be proposed.
    at_a_time
        Places.
    unfinished
        Number of trainings that run or wait.
    """
    together = max(1, at_a_time // PROPOSALS)
    missing = at_a_time + together - unfinished
    return min(left, missing) if missing >= min(left, together) else 0


def rung_counts(workflow: WorkflowModel) -> tuple[int, ...]:
    """Return the largest number of candidates per rung."""
    search = workflow.search
    policy = make_policy(STOPPING, search.stopping, StoppingPolicy)
    return tuple(policy.most(search.candidates, rung, search.reduction) for rung in range(len(search.rungs)))


def trials(workflow: WorkflowModel) -> int:
    """Return the number of candidates: the requested number, or the budget's number of trials."""
    budget = workflow.budget.trials
    return workflow.search.candidates if budget is None else min(workflow.search.candidates, budget)


def wave_target(workflow: WorkflowModel) -> int:
    """Return the number of candidates that should train at a time."""
    search = workflow.search
    return min(search.wave, search.candidates) if isinstance(search.wave, int) else -(-search.candidates // WAVES)
