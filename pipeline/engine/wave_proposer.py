"""Proposes candidates, and ranks finalists, in the background while the driver continues."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol

from gfm_pipeline.campaign.events import EnsembleRanked, WaveProposed
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.proposals import WaveQuestion, wave_question
from gfm_pipeline.engine.decisions.rankings import RankingQuestion, ranking_question
from gfm_pipeline.engine.decisions.requests import Context, Proposal, Ranking
from gfm_pipeline.search.proposal_process import AnyQuestion

Settings = list[dict[str, Any]]


class Answering(Protocol):
    """Answers requests for proposals and rankings."""

    def submit(self, question: AnyQuestion) -> Future[Settings]:
        """Return the future of an answer."""

    def close(self) -> None:
        """End the present computation."""


class Proposer:
    """Requests one proposal or ranking at a time.

    Parameters
    ----------
    context
        Settings and inputs.
    answering
        Process of the proposal method.
    """

    def __init__(self, context: Context, answering: Answering) -> None:
        self._context = context
        self._answering = answering
        self._question: WaveQuestion | RankingQuestion | None = None
        self._answer: Future[Settings] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a proposal or ranking is in progress."""
        return self._answer is not None

    def wave(self, state: CampaignState, wanted: Proposal) -> WaveProposed | None:
        """Return the requested candidates, or None while their proposal is in progress.

        A proposal in progress continues to its end, even if more candidates are wanted now.

        Raises
        ------
        GFMError
            When the proposal method fails.
        """
        question = self._question if isinstance(self._question, WaveQuestion) else None
        if question is None or (question.wanted.key, question.wanted.wave) != (wanted.key, wanted.wave):
            question = wave_question(self._context, state, wanted)
            self._begin(question)
        return None if self._waits() else question.wave(self._taken())

    def ranking(self, state: CampaignState, wanted: Ranking) -> EnsembleRanked | None:
        """Return the requested ranking, or None while it is in progress.

        Raises
        ------
        GFMError
            When the selection fails.
        """
        question = self._question if isinstance(self._question, RankingQuestion) else None
        if question is None or question.wanted != wanted:
            question = ranking_question(self._context, state, wanted)
            self._begin(question)
        return None if self._waits() else question.event(self._taken())

    def _begin(self, question: WaveQuestion | RankingQuestion) -> None:
        self._question = question
        self._answer = None if question.question is None else self._answering.submit(question.question)

    def _waits(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def _taken(self) -> Settings:
        """Return the answer, and be free for the next question."""
        answer = self._answer
        self._question = self._answer = None
        return [] if answer is None else answer.result()

    def close(self) -> None:
        """Abandon the proposal in progress; it will be repeated."""
        self._question = self._answer = None
        self._answering.close()
