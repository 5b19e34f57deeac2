"""Refuses a budget that is too small before any start, with the smallest sufficient one."""

from __future__ import annotations

import math

from gfm_pipeline.api.run_request import ResolvedRun
from gfm_pipeline.campaign.budget_standing import UNITS
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.budgets import Budget


def refuse_budget(request: ResolvedRun, state: CampaignState) -> None:
    """Refuse limits that are too small for the campaign, as far as that is known.

    Raises
    ------
    ConfigError
        With the limit and its line, and the smallest sufficient value.
    """
    found = Budget(request.context, state, request.site, state.last_event, alive=False).cannot_finish()
    if found is None:
        return
    standing, least = found
    unit = UNITS[standing.quantity]
    spent = f"{standing.spent:,.3g} are spent, and " if standing.spent else ""
    smallest = f"{_rounded_up(max(least, standing.limit if standing.spent >= standing.limit else 0.0)):g}"
    raise request.loaded.error(
        tuple(standing.key.split(".")),
        f"{standing.limit:g} {unit} cannot finish: {spent}the rest takes {least - standing.spent:,.3g} at least.",
        f"Set {standing.key} to {smallest} or more.",
    )


def _rounded_up(amount: float) -> float:
    """Return an amount rounded up to three digits."""
    if amount <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(amount)) - 2)
    return math.ceil(amount / unit - 1e-9) * unit
