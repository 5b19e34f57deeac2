"""Proposals of candidates: the first design, then those of the workflow's method, told what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gfm_pipeline.campaign.events import Candidate, WaveProposed
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.policies import PROPOSALS, make_policy
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.engine.decisions.requests import Context, Proposal
from gfm_pipeline.engine.stages.search import LAG
from gfm_pipeline.engine.stages.trials import objective_of
from gfm_pipeline.search.proposal_process import Question
from gfm_pipeline.search.proposer import Observation, ProposalMethod, initial_count
from gfm_pipeline.search.warm_start import on_scale_of

ORIGINS = {"deephyper": "DeepHyper CBO"}  # as journals call it
DESIGN = "first design"


@dataclass(frozen=True)
class WaveQuestion:
    """A wave that is to be proposed: what of it is known at once, and what the method is asked for the rest.

    ``head`` are candidates of the first design; ``question`` is None where they are all of the wave.
    """

    wanted: Proposal
    taken: int
    head: tuple[dict[str, Any], ...]
    question: Question | None
    origin: str
    n_results: int

    def wave(self, proposed: Sequence[dict[str, Any]]) -> WaveProposed:
        """Return the event that records the wave, with what the method proposed."""
        settings = [*self.head, *proposed]
        names = (f"c{self.taken + i:05d}" for i in range(len(settings)))
        candidates = tuple(Candidate(name, self.wanted.wave, one) for name, one in zip(names, settings, strict=True))
        reach(FaultPoint.PROPOSAL_MADE)
        return WaveProposed(self.wanted.key, self.wanted.wave, candidates, self.origin, self.n_results)


def wave_question(context: Context, state: CampaignState, wanted: Proposal) -> WaveQuestion:
    """Return what a wave depends on: the results its lag allows; a function of settings and state alone."""
    search, seed = context.workflow.search, context.workflow.seed
    stage = state.stages[wanted.key]
    space = search.space.compile()
    candidates = list(stage.candidates().values())
    taken = [c.settings for c in candidates]
    choice = search.proposals
    method = make_policy(PROPOSALS, choice, ProposalMethod)
    initial = method.first_design(space, initial_count(space, stage.designed_for or search.candidates), seed)
    head = initial[len(taken) : len(taken) + wanted.size]
    if len(head) == wanted.size:
        return WaveQuestion(wanted, len(taken), tuple(head), None, DESIGN, 0)
    observations = [
        Observation(c.settings, objective_of(stage, c.name, 0)) for c in candidates if c.wave <= wanted.wave - 1 - LAG
    ]
    prior = [(settings, value) for settings, value in stage.settings.get("warm_start", ())]
    earlier = on_scale_of(prior, [o.objective for o in observations if o.objective is not None])
    known = [*(Observation(settings, value) for settings, value in earlier), *observations]
    question = Question(choice, space, known, taken + head, wanted.size - len(head), seed * 1009 + wanted.wave)
    return WaveQuestion(
        wanted, len(taken), tuple(head), question, ORIGINS.get(choice.name, choice.name), len(observations)
    )


def propose_wave(context: Context, state: CampaignState, wanted: Proposal) -> WaveProposed:
    """Return a wave of candidates, computed here and now."""
    wave = wave_question(context, state, wanted)
    return wave.wave([] if wave.question is None else wave.question.answer())
