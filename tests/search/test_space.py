"""The search space: conditional, canonical, and proposed from by DeepHyper."""

import numpy as np
import pytest

from gfm_pipeline.search.proposer import Observation, first_design, initial_count, propose
from gfm_pipeline.search.space import Choice, Range, SearchSpace

SPACE = SearchSpace(
    {
        "algorithm": Choice(("SchNet", "EGNN", "PaiNN", "PNA")),
        "hidden": Choice((32, 48, 64)),
        "layers": Range(2, 4, whole=True),
        "learning_rate": Range(1e-3, 1e-1, log=True),
        "cutoff": Choice((5.0,)),
    },
    {"PaiNN": {"hidden": Choice((8, 16))}, "PNA": {"options.depth": Choice((1, 2))}},
)


def loss(settings):
    return (
        abs(np.log10(settings["learning_rate"] / 1e-2))
        + {"SchNet": 0.5, "EGNN": 0.3, "PaiNN": 0.0, "PNA": 0.9}[settings["algorithm"]]
    )


def test_settings_and_row_are_inverse():
    for row in SPACE.sample(50, np.random.default_rng(0)):
        settings = SPACE.settings(row)
        assert SPACE.row(settings) == row == SPACE.canonical(row)
        assert ("options.depth" in settings) == (settings["algorithm"] == "PNA")
        assert settings["hidden"] in ((8, 16) if settings["algorithm"] == "PaiNN" else (32, 48, 64))


def test_the_largest_value_is_of_any_algorithm():
    assert SPACE.largest("hidden") == 64
    assert SPACE.largest("layers") == 4
    own = {"A": {"cutoff": Range(3.0, 6.5)}, "B": {"cutoff": Choice((4.0, 6.0))}}
    assert SearchSpace({"algorithm": Choice(("A", "B", "C")), "cutoff": Choice((7.0,))}, own).largest("cutoff") == 7.0
    # a value that every algorithm replaces is no candidate's
    assert SearchSpace({"algorithm": Choice(("A", "B")), "cutoff": Choice((7.0,))}, own).largest("cutoff") == 6.5


def test_draws_cover_and_stay_inside():
    rows = SPACE.sample(300, np.random.default_rng(1))
    assert {row["layers"] for row in rows} == {2, 3, 4}
    rates = np.array([row["learning_rate"] for row in rows])
    assert rates.min() >= 1e-3
    assert rates.max() <= 1e-1
    assert abs(np.median(np.log10(rates)) + 2) < 0.05  # stratified on a log scale


def test_first_design_takes_algorithms_in_turn():
    design = first_design(SPACE, 8, seed=3)
    assert [d["algorithm"] for d in design] == ["SchNet", "EGNN", "PaiNN", "PNA"] * 2
    assert design == first_design(SPACE, 8, seed=3) != first_design(SPACE, 8, seed=4)
    assert initial_count(SPACE, 16) == 8
    assert initial_count(SPACE, 3) == 3


def test_proposals_are_a_function_of_what_was_told_and_improve():
    design = first_design(SPACE, 8, seed=0)
    told = [Observation(d, None if i == 2 else loss(d)) for i, d in enumerate(design)]
    taken = list(design)
    for wave in range(6):
        proposed = propose(SPACE, told, taken, 3, seed=wave)
        assert proposed == propose(SPACE, told, taken, 3, seed=wave)
        assert all(p not in taken for p in proposed)
        assert len(proposed) == 3
        taken += proposed
        told += [Observation(p, loss(p)) for p in proposed]
    found = min(loss(p) for p in taken[8:])
    assert found < min(loss(d) for d in design)
    assert sum(p["algorithm"] == "PaiNN" for p in taken[8:]) > 9  # half: it has learned which one is good


@pytest.mark.parametrize("told", [[], [Observation(first_design(SPACE, 1, 0)[0], None)]])
def test_nothing_learned_yet_falls_back_to_sampling(told):
    assert len(propose(SPACE, told, [t.settings for t in told], 5, seed=1)) == 5


def test_a_space_smaller_than_the_search_repeats():
    tiny = SearchSpace({"algorithm": Choice(("SchNet",)), "hidden": Choice((8, 16))}, {})
    proposed = propose(tiny, [Observation({"algorithm": "SchNet", "hidden": 8}, 0.5)], [], 4, seed=0)
    assert len(proposed) == 4
