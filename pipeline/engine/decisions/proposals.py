"""Proposals of candidates: the first design, then the workflow's method with all known results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gfm_pipeline.campaign.events import Candidate, Cause, WaveProposed
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.policies import PROPOSALS, make_policy
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.engine.decisions.requests import Context, Proposal
from gfm_pipeline.engine.stages.objectives import costs_of
from gfm_pipeline.engine.stages.search import LAG
from gfm_pipeline.engine.stages.search_size import wave_size
from gfm_pipeline.engine.stages.trials import finished, objective_of, task_name
from gfm_pipeline.search.memory import BEYOND, Measured, MemoryLimit
from gfm_pipeline.search.proposal_process import Question
from gfm_pipeline.search.proposer import Observation, ProposalMethod, initial_count
from gfm_pipeline.search.warm_start import on_scale_of

ORIGINS = {"deephyper": "DeepHyper CBO"}  # the name in journals
DESIGN, EARLIER = "first design", "members of an earlier ensemble"


@dataclass(frozen=True)
class WaveQuestion:
    """Candidates to propose: those known at once, and the question to the method about the rest.

    ``head`` are candidates of the first design; ``question`` is None if there are no others. ``wave_size``: of the
    wave, if it differs from the proposal's size; ``upto``: number of events on which the proposal is based.
    """

    wanted: Proposal
    taken: int
    head: tuple[dict[str, Any], ...]
    question: Question | None
    origin: str
    n_results: int
    wave_size: int | None = None
    upto: int | None = None

    def wave(self, proposed: Sequence[dict[str, Any]]) -> WaveProposed:
        """Return the event that records the wave, with the method's candidates."""
        settings = [*self.head, *proposed]
        candidates = tuple(
            Candidate(f"c{number:05d}", self._wave_of(number), one) for number, one in enumerate(settings, self.taken)
        )
        reach(FaultPoint.PROPOSAL_MADE)
        return WaveProposed(self.wanted.key, self.wanted.wave, candidates, self.origin, self.n_results, self.upto)

    def answered(self) -> WaveProposed:
        """Return the event with the method's candidates, computed in this process."""
        return self.wave([] if self.question is None else self.question.answer())

    def _wave_of(self, number: int) -> int:
        return self.wanted.wave if self.wave_size is None else number // self.wave_size


def wave_question(context: Context, state: CampaignState, wanted: Proposal) -> WaveQuestion:
    """Return the inputs of a proposal; a function of settings and state alone.

    A wave uses the results that its lag allows; an asynchronous proposal uses all results in ``state``.
    """
    search, seed = context.workflow.search, context.workflow.seed
    stage = state.stages[wanted.key]
    space = search.space.compile()
    candidates = list(stage.candidates().values())
    proposed = [c.settings for c in candidates]
    choice = search.proposals
    method = make_policy(PROPOSALS, choice, ProposalMethod)
    earlier = stage.settings.get("fine_tune")
    if earlier is None:
        initial = method.first_design(space, initial_count(space, stage.designed_for or search.candidates), seed)
    else:
        initial = [dict(settings) for _, settings in earlier["members"]]
    head = initial[len(proposed) : len(proposed) + wanted.size]
    size, upto = (wave_size(search.wave, stage.slots), state.version) if search.asynchronous else (None, None)
    if len(head) == wanted.size:
        origin = DESIGN if earlier is None else EARLIER
        return WaveQuestion(wanted, len(proposed), tuple(head), None, origin, 0, size, upto)
    observed = [
        c
        for c in candidates
        if (finished(stage, c.name, 0) if search.asynchronous else c.wave <= wanted.wave - 1 - LAG)
    ]
    others = search.objective[1:]
    observations = [
        Observation(c.settings, objective_of(stage, c.name, 0), costs_of(stage, c.name, 0, others)) for c in observed
    ]
    prior = [(settings, value) for settings, value in stage.settings.get("warm_start", ())]
    scaled = on_scale_of(prior, [o.objective for o in observations if o.objective is not None])
    known = [*(Observation(settings, value) for settings, value in scaled), *observations]
    memory = None if search.max_memory_gb is None else memory_limit(stage, search.max_memory_gb, observed)
    left = wanted.size - len(head)
    question = Question(choice, space, known, proposed + head, left, seed * 1009 + wanted.wave, memory)
    origin = ORIGINS.get(choice.name, choice.name)
    return WaveQuestion(wanted, len(proposed), tuple(head), question, origin, len(observations), size, upto)


def memory_limit(stage: StageState, most_gb: float, observed: Sequence[Candidate]) -> MemoryLimit:
    """Return the memory of candidates' first trainings; one that ran out of memory counts as above the limit."""
    measured: list[Measured] = []
    for candidate in observed:
        task = stage.tasks.get(task_name(candidate.name, 0))
        result = None if task is None else task.decoded(TrainResult)
        if task is not None and any(attempt.cause is Cause.OUT_OF_MEMORY for attempt in task.history):
            measured.append((candidate.settings, most_gb * BEYOND))  # it may have continued with smaller batches
        elif result is not None and result.peak_memory_gb is not None:
            measured.append((candidate.settings, result.peak_memory_gb))
    return MemoryLimit(most_gb, measured)


def propose_wave(context: Context, state: CampaignState, wanted: Proposal) -> WaveProposed:
    """Return candidates, computed in this process."""
    return wave_question(context, state, wanted).answered()
