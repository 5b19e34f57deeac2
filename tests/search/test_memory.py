"""Candidates that would take too much memory are not proposed, once trainings have shown what they take."""

from __future__ import annotations

import numpy as np

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.state import fold
from gfm_pipeline.core.contracts.policies import PolicyChoice
from gfm_pipeline.core.contracts.training_result import StopReason, TrainResult
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.decisions.proposals import memory_limit
from gfm_pipeline.search.memory import LEAST, MemoryLimit, MemoryModel, too_large
from gfm_pipeline.search.proposal_process import ProposalProcess, Question
from gfm_pipeline.search.space import Choice, Range, SearchSpace

SPACE = SearchSpace(
    {
        "algorithm": Choice(("EGNN", "PaiNN")),
        "hidden": Choice((32, 64, 128, 256, 512)),
        "batch_size": Choice((16, 64, 256)),
        "learning_rate": Range(1e-4, 1e-1, log=True),
    },
    {"PaiNN": {"hidden": Choice((16, 32, 64, 128))}},
)
MOST = 20.0


def takes(settings) -> float:
    """Return the memory of a training (GB)."""
    factor = {"EGNN": 1.0, "PaiNN": 4.0}[settings["algorithm"]]
    return 2e-3 * factor * settings["hidden"] * settings["batch_size"] ** 0.8


def sample(n, seed):
    return [SPACE.settings(row) for row in SPACE.sample(n, np.random.default_rng(seed))]


def limit(n):
    draw = np.random.default_rng(3)
    return MemoryLimit(MOST, [(s, takes(s) * float(np.exp(0.05 * draw.normal()))) for s in sample(n, 0)])


def test_memory_is_predicted_from_few_trainings():
    others = sample(200, 1)
    predicted = MemoryModel(SPACE, limit(24).measured)(others)
    assert np.median(np.abs(predicted / [takes(s) for s in others] - 1)) < 0.2


def test_what_is_too_large_is_not_proposed_and_others_are_in_its_place():
    questions = [Question(PolicyChoice("random", {}), SPACE, [], [], 60, 5, m) for m in (None, limit(24))]
    with_all, fitting = (question.answer() for question in questions)
    assert len(fitting) == 60
    assert max(map(takes, with_all)) > 2 * MOST
    assert max(map(takes, fitting)) < 1.5 * MOST
    process = ProposalProcess()
    try:
        assert process.submit(questions[1]).result(timeout=120) == fitting
    finally:
        process.close()


def test_nothing_is_refused_before_anything_is_known_or_where_nothing_would_be_left():
    assert not any(too_large(SPACE, limit(LEAST - 1), sample(50, 2)))
    none = MemoryLimit(1e-9, limit(24).measured)
    assert len(Question(PolicyChoice("random", {}), SPACE, [], [], 5, 5, none).answer()) == 5


def test_a_training_that_ran_out_of_memory_counts_as_beyond_the_limit():
    """Though it went on in smaller batches and then took little."""
    candidates = tuple(ev.Candidate(f"c{k}", 0, one) for k, one in enumerate(sample(2, 4)))
    result = TrainResult(StopReason.BUDGET, 0.5, {}, 1, 1, 1, 1.0, 1.0, None, None, peak_memory_gb=3.0)
    ended = {"result": to_plain(result), "action": ev.Action.ACCEPT}
    retried = {"cause": ev.Cause.OUT_OF_MEMORY, "action": ev.Action.SHRINK}
    events = [
        ev.StageOpened("search", "s", {}, {}, 1),
        ev.WaveProposed("s", 0, candidates, "random", 0),
        ev.TaskStarted("s", "c0-r0", 1),
        ev.TaskEnded("s", "c0-r0", 1, ev.AttemptOutcome.OK, 1.0, **ended),
        ev.TaskStarted("s", "c1-r0", 1),
        ev.TaskEnded("s", "c1-r0", 1, ev.AttemptOutcome.RETRYABLE, 1.0, **retried),
        ev.TaskStarted("s", "c1-r0", 2),
        ev.TaskEnded("s", "c1-r0", 2, ev.AttemptOutcome.OK, 1.0, **ended),
    ]
    stage = fold((float(n), event) for n, event in enumerate(events)).stages["s"]
    found = memory_limit(stage, 40.0, candidates)
    assert [gb for _, gb in found.measured] == [3.0, 50.0]
