"""Every batch method on spaces of 1 to 256 settings: shares of algorithms, no repetition, nothing forbidden."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gfm_pipeline.core.contracts.policies import PROPOSALS, default_choice, make_policy
from gfm_pipeline.core.records import canonical_json
from gfm_pipeline.search.encoding import Encoding
from gfm_pipeline.search.proposer import Observation, ProposalMethod
from gfm_pipeline.search.space import Choice, Range, SearchSpace
from gfm_pipeline.workflow.schema import PROPOSALS_OF_NEW

BATCHES = [name for name in PROPOSALS.built_in if name.startswith("batch-")]
GRID = SearchSpace(
    {"algorithm": Choice(("SchNet", "EGNN")), "hidden": Choice((8, 16, 32, 64)), "layers": Range(1, 8, whole=True)}, {}
)
WIDE = SearchSpace({**GRID.shared, "batch_size": Range(1, 4, whole=True, log=True)}, {})
CONDITIONAL = SearchSpace(GRID.shared, {"EGNN": {"hidden": Choice((8,)), "options.depth": Range(0, 3, whole=True)}})
FORBIDDEN = SearchSpace(
    WIDE.shared,
    {},
    ({"hidden": Choice((64,)), "layers": Range(5, 8)}, {"algorithm": Choice(("EGNN",)), "layers": Choice((1,))}),
)
SPACES = {
    "grid": (GRID, 64),
    "wide": (WIDE, 256),
    "conditional": (CONDITIONAL, 64),
    "forbidden": (FORBIDDEN, 208),
    "single": (SearchSpace({"algorithm": Choice(("SchNet",)), "hidden": Choice((8,))}, {}), 1),
    "one number": (SearchSpace({"algorithm": Choice(("SchNet",)), "layers": Range(3, 3, whole=True, log=True)}, {}), 1),
}


def method_of(name):
    return make_policy(PROPOSALS, default_choice(PROPOSALS, name), ProposalMethod)


def value(settings):
    return settings.get("layers", 1) / settings.get("hidden", 8)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("kind", SPACES)
def test_nothing_is_tried_twice_while_other_settings_are_left(name, kind):
    space, size = SPACES[kind]
    assert len(Encoding(space).enumerate()) == size
    method = method_of(name)
    taken = method.first_design(space, max(1, size // 4), 3)
    for seed in range(3):  # the last batch asks for more candidates than there are settings left
        told = [Observation(s, None if i % 9 == 5 else value(s)) for i, s in enumerate(taken)]
        taken += method.propose(space, told, taken, size // 3 + 1, seed)
        counts = Counter(canonical_json(s) for s in taken)
        assert len(counts) == min(len(taken), size)
        assert all(space.allows(s) for s in taken)
    assert set(counts.values()) <= {len(taken) // size, len(taken) // size + 1}


@pytest.mark.parametrize("kind", ["grid", "wide", "conditional", "forbidden"])
def test_every_algorithm_has_its_share_of_the_first_design(kind):
    """Of new campaigns: the methods of earlier ones replay, and replace copies by settings of any algorithm."""
    space, _ = SPACES[kind]
    method = method_of(PROPOSALS_OF_NEW.name)
    for n in (6, 7, 20, 40):
        design = method.first_design(space, n, n)
        design += method.propose(space, [], design, 5, 1)
        counts = Counter(s["algorithm"] for s in design)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len({canonical_json(s) for s in design}) == n + 5
        assert all(space.allows(s) for s in design)
    layers = Counter(s["layers"] for s in method.first_design(GRID, 16, 1) if s["algorithm"] == "SchNet")
    assert len(layers) >= 7  # a hypercube of eight; a copy, which the small grid may bring, is replaced


def test_whole_logarithmic_and_ordinal_ends_are_reached():
    space = SearchSpace(
        {
            "algorithm": Choice(("SchNet",)),
            "batch_size": Range(1, 1000, whole=True, log=True),
            "hidden": Choice((8, 64)),
        },
        {},
    )
    encoding = Encoding(space)
    ends = encoding.from_units(np.array([[0.0, 0.0, 0.0], [0.5, np.nextafter(1.0, 0.0), np.nextafter(1.0, 0.0)]]))
    assert [(s["batch_size"], s["hidden"]) for s in encoding.decode(ends)] == [(1, 8), (1000, 64)]
    drawn = encoding.decode(encoding.sample(2000, np.random.default_rng(0)))
    assert all(isinstance(s["batch_size"], int) and 1 <= s["batch_size"] <= 1000 for s in drawn)
    assert np.mean([s["batch_size"] < 32 for s in drawn]) == pytest.approx(0.5, abs=0.05)
