"""Several objectives: fronts against their definition, ranks for promotions, and proposals that cover the front."""

from __future__ import annotations

import numpy as np
import pytest

from gfm_pipeline.core.contracts.policies import PROPOSALS, default_choice
from gfm_pipeline.engine.stages.objectives import COSTS
from gfm_pipeline.search.pareto import OBJECTIVES, fronts, pareto_front, ranks, scalarised
from gfm_pipeline.search.proposal_process import ProposalProcess, Question
from gfm_pipeline.search.proposer import Observation
from gfm_pipeline.search.space import Choice, Range, SearchSpace

SPACE = SearchSpace({"algorithm": Choice(("SchNet", "EGNN")), "x": Range(0.0, 1.0), "y": Range(0.0, 1.0)}, {})


def by_definition(vectors):
    left, found, front = set(range(len(vectors))), {}, 0
    while left:
        mine = {
            a
            for a in left
            if not any(
                all(p <= q for p, q in zip(vectors[b], vectors[a], strict=True))
                and tuple(vectors[b]) != tuple(vectors[a])
                for b in left
            )
        }
        found |= dict.fromkeys(mine, front)
        left, front = left - mine, front + 1
    return [found[place] for place in range(len(vectors))]


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_fronts_are_those_of_their_definition(objectives, seed):
    drawn = np.random.default_rng(seed).integers(0, 6, (40, objectives)).astype(float)  # with ties
    vectors = [tuple(row) for row in drawn]
    assert fronts(vectors) == by_definition(vectors)


def test_the_front_leaves_out_what_is_dominated_and_what_was_not_measured():
    trials = {"a": (0.1, 9.0), "b": (0.2, 3.0), "c": (0.3, 4.0), "d": (0.4, 1.0), "e": (0.05, None)}
    assert pareto_front(trials) == ("a", "b", "d")
    assert pareto_front({}) == ()


def test_better_fronts_are_promoted_first_and_the_ends_of_a_front_before_its_crowd():
    trials = {"low": (0.1, 9.0), "mid": (0.2, 3.0), "near": (0.21, 2.9), "high": (0.9, 1.0), "bad": (0.95, 9.5)}
    found = ranks(trials)
    assert max(found[n] for n in ("low", "mid", "near", "high")) < found["bad"]
    assert found["low"] == found["high"] < min(found["mid"], found["near"])


def test_a_scalar_value_follows_its_weights():
    vectors = [(0.1, 9.0), (0.9, 1.0), (0.5, None)]
    error, energy = scalarised(vectors, [1.0, 0.0]), scalarised(vectors, [0.0, 1.0])
    assert error.index(min(error)) == 0
    assert energy.index(min(energy)) == 1
    assert energy[2] == max(energy)


def test_every_objective_is_measured():
    assert set(OBJECTIVES) == {"error", *COSTS}


def conflict(settings):
    """Return objectives whose Pareto front is y = 0, with x from one end to the other."""
    return settings["x"] + settings["y"], (1.0 - settings["x"] + settings["y"]) * 1e-4


def test_proposals_cover_the_front():
    rng = np.random.default_rng(0)
    rows = [{"algorithm": "SchNet", "x": float(x), "y": float(y)} for x, y in rng.random((60, 2))]
    told = [Observation(row, conflict(row)[0], (conflict(row)[1],)) for row in rows]
    question = Question(default_choice(PROPOSALS, "batch-ucb"), SPACE, told, rows, 32, 3)
    made = question.answer()
    assert len(made) == 32
    assert len({str(sorted(one.items())) for one in made}) == 32
    assert np.median([one["y"] for one in made]) < 0.25
    ends = [one["x"] for one in made]
    assert min(ends) < 0.2
    assert max(ends) > 0.8
    process = ProposalProcess()
    try:
        assert process.submit(question).result(timeout=120) == made
    finally:
        process.close()
