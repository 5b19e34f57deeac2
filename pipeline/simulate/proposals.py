"""Proposals of a simulated campaign: real proposals, after a simulated time."""

from __future__ import annotations

from concurrent.futures import Future

from gfm_pipeline.engine.wave_proposer import Settings
from gfm_pipeline.search.proposal_process import AnyQuestion
from gfm_pipeline.simulate.clock import SimulatedClock
from gfm_pipeline.simulate.scenario import SimulatedDriverModel


class SimulatedProposals:
    """Answers questions to proposal methods (`gfm_pipeline.engine.wave_proposer.Answering`).

    Parameters
    ----------
    clock, model
        Time, and the time of a proposal.
    """

    def __init__(self, clock: SimulatedClock, model: SimulatedDriverModel) -> None:
        self._clock, self._model = clock, model

    def submit(self, question: AnyQuestion) -> Future[Settings]:
        """Return the future of an answer, which is computed now and arrives after its simulated time."""
        answered: Future[Settings] = Future()
        settings, model = question.answer(), self._model
        wanted, results = question.size
        seconds = model.proposal_seconds + model.candidate_seconds * wanted + model.result_seconds * results
        self._clock.after(seconds, lambda: answered.set_result(settings))
        return answered

    def close(self) -> None:
        """Do nothing: there is no computation in progress."""
