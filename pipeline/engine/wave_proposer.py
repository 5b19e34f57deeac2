"""Proposes candidates in the background while the driver continues."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol

from gfm_pipeline.campaign.events import WaveProposed
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.proposals import WaveQuestion, wave_question
from gfm_pipeline.engine.decisions.requests import Context, Proposal
from gfm_pipeline.search.proposal_process import Question

Settings = list[dict[str, Any]]


class Answering(Protocol):
    """Answers requests for proposals."""

    def submit(self, question: Question) -> Future[Settings]:
        """Return the future of an answer."""

    def close(self) -> None:
        """End the present computation."""


class Proposer:
    """Requests one proposal at a time.

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
        self._question: WaveQuestion | None = None
        self._answer: Future[Settings] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a proposal is in progress."""
        return self._answer is not None

    def wave(self, state: CampaignState, wanted: Proposal) -> WaveProposed | None:
        """Return the requested candidates, or None while their proposal is in progress.

        A proposal in progress continues to its end, even if more candidates are wanted now.

        Raises
        ------
        GFMError
            When the proposal method fails.
        """
        begun = None if self._question is None else self._question.wanted
        if self._question is None or begun is None or (begun.key, begun.wave) != (wanted.key, wanted.wave):
            self._question = wave_question(self._context, state, wanted)
            self._answer = None if self._question.question is None else self._answering.submit(self._question.question)
        if self._answer is not None and not self._answer.done():
            return None
        question, answer = self._question, self._answer
        self._question = self._answer = None
        return question.wave([] if answer is None else answer.result())

    def close(self) -> None:
        """Abandon the proposal in progress; it will be repeated."""
        self._question = self._answer = None
        self._answering.close()
