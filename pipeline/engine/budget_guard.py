"""Keeps a driver within the budget: tasks that may start, tasks that must stop, and the action at a limit."""

from __future__ import annotations

from collections.abc import Callable

from gfm_pipeline.campaign.budget_standing import BudgetReviewed, Standing, sentence
from gfm_pipeline.campaign.events import StageCurtailed
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.errors import BudgetSpent
from gfm_pipeline.engine.decisions.budget_limits import in_force, limits
from gfm_pipeline.engine.decisions.budgets import Budget
from gfm_pipeline.engine.decisions.requests import AnyRequest, Context
from gfm_pipeline.engine.stages.table import stage_named
from gfm_pipeline.sites.schema import SiteModel


class BudgetGuard:
    """The budget of a running campaign; without limits, the guard checks nothing.

    Parameters
    ----------
    context, state, site
        Settings, state, and machine.
    now
        Returns Unix seconds.
    """

    def __init__(self, context: Context, state: CampaignState, site: SiteModel, now: Callable[[], float]) -> None:
        self._context, self._state, self._site, self._now = context, state, site, now
        self._limited = any(True for _ in limits(context.workflow))
        self._budget: Budget | None = None
        self._version = -1
        self.refused: Standing | None = None  # the limit that prevented the start of the most urgent task

    def _current(self) -> Budget:
        if self._budget is None or self._version != self._state.version:
            self._budget = Budget(self._context, self._state, self._site, self._now())
            self._version = self._state.version
        return self._budget

    def may_start(self, request: AnyRequest) -> bool:
        """Return whether the predicted use of a task remains in the budget; else record the limit."""
        if not self._limited:
            return True
        self.refused = self._current().refuses(request)
        return self.refused is None

    def reached(self) -> Standing | None:
        """Return a reached limit, at which running tasks must save and stop; None: they may continue."""
        if not self._limited:
            return None
        self._budget = None  # time advances even without events
        return self._current().exhausted()

    def review(self) -> BudgetReviewed | None:
        """Return the state of all limits, for users; None without limits."""
        return BudgetReviewed(self._current().standings()) if self._limited else None

    def follows(self, stage: str) -> StageCurtailed:
        """Return the early end of a stage with its present results, since a limit prevents further tasks.

        Raises
        ------
        BudgetSpent
            When the stage cannot end early: the campaign pauses until the limit is raised.
        """
        standing, found = self.refused, self._state.stage(stage)
        words = "" if standing is None else sentence(standing)
        declared = stage_named(stage)
        if found is not None and declared is not None and declared.may_be_curtailed(self._context, found):
            return StageCurtailed(found.key, words, in_force(self._context.workflow, stage))
        key = "budget" if standing is None else standing.key
        raise BudgetSpent(
            f"Stopped, since the budget is spent ({words}); every finished result and checkpoint is kept.",
            f"Raise {key} in the workflow.",
        )
