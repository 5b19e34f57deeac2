"""Rankings of a search's finalists by their stored validation errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gfm_pipeline.campaign.events import EnsembleRanked
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.requests import Context, Ranking
from gfm_pipeline.engine.stages.search_members import checkpoints
from gfm_pipeline.search.selection_question import SelectionQuestion


@dataclass(frozen=True)
class RankingQuestion:
    """A ranking to make, and the question to the selection."""

    wanted: Ranking
    question: SelectionQuestion

    def event(self, answer: Sequence[dict[str, Any]]) -> EnsembleRanked:
        """Return the event that records the ranking."""
        (found,) = answer
        rank = found["rank"] or {"weights": {}, "likelihood": None, "left_out": {}}
        return EnsembleRanked(
            self.wanted.key,
            dict(rank["weights"]),
            rank["likelihood"],
            dict(rank["left_out"]),
            dict(found["digests"]),
            dict(found["unread"]),
        )

    def answered(self) -> EnsembleRanked:
        """Return the event, computed in this process."""
        return self.event(self.question.answer())


def ranking_question(context: Context, state: CampaignState, wanted: Ranking) -> RankingQuestion:
    """Return the inputs of a ranking; a function of settings and state alone."""
    converge = context.workflow.converge
    cap = converge.members if converge.max_per_algorithm is None else converge.max_per_algorithm
    found = checkpoints(context, state.stages[wanted.key])
    return RankingQuestion(wanted, SelectionQuestion(converge.selection, found, converge.members, cap))
