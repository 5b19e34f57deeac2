"""Proposals of candidates: the first design, then those of the workflow's method, told what is known."""

from __future__ import annotations

from gfm_pipeline.campaign.events import Candidate, WaveProposed
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.policies import PROPOSALS, make_policy
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.engine.decisions.requests import Context, Proposal
from gfm_pipeline.engine.stages.search import LAG
from gfm_pipeline.engine.stages.trials import objective_of
from gfm_pipeline.search.proposer import Observation, ProposalMethod, first_design, initial_count

ORIGINS = {"deephyper": "DeepHyper CBO"}  # as journals call it


def propose_wave(context: Context, state: CampaignState, wanted: Proposal) -> WaveProposed:
    """Return a wave of candidates, from the results its lag allows; a function of settings and state alone."""
    workflow = context.workflow
    stage = state.stages[wanted.key]
    space = workflow.search.space.compile()
    taken = [c.settings for c in stage.candidates().values()]
    initial = first_design(space, initial_count(space, workflow.search.candidates), workflow.seed)
    known = [c for c in stage.candidates().values() if c.wave <= wanted.wave - 1 - LAG]
    if len(taken) + wanted.size <= len(initial):
        chosen, origin, told = initial[len(taken) : len(taken) + wanted.size], "first design", 0
    else:
        results = [Observation(c.settings, objective_of(stage, c.name, 0)) for c in known]
        head = initial[len(taken) :]
        rest = wanted.size - len(head)
        choice = workflow.search.proposals
        method = make_policy(PROPOSALS, choice, ProposalMethod)
        chosen = head + method.propose(space, results, taken + head, rest, workflow.seed * 1009 + wanted.wave)
        origin, told = ORIGINS.get(choice.name, choice.name), len(results)
    candidates = tuple(Candidate(f"c{len(taken) + i:05d}", wanted.wave, settings) for i, settings in enumerate(chosen))
    reach(FaultPoint.PROPOSAL_MADE)
    return WaveProposed(wanted.key, wanted.wave, candidates, origin, told)
