"""Stopping policies that look at more than one rung: who trains on, and what is said of those that stop."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfm_pipeline.core.contracts.policies import STOPPING, default_choice, make_policy
from gfm_pipeline.search.curves import ExtrapolatedCurves, FixedBudget, GainPerCost, MedianStopping, extrapolated
from gfm_pipeline.search.rungs import NO_OBJECTIVE
from gfm_pipeline.search.stopping import RungResults, StoppingPolicy

RUNGS = (100, 300, 900)


def view(rung, *results, seconds=None, entrants=None, already=(), reduction=2.0):
    """Return a view of a rung whose candidates' objectives at it and before are ``results``."""
    known = dict(enumerate(results))
    names = tuple(results[-1]) if entrants is None else tuple(entrants)
    return RungResults(rung, RUNGS, known, {rung: seconds or {}}, names, frozenset(already), reduction)


def test_the_median_divides_those_that_finished():
    found = MedianStopping().decide(view(0, {"a": 0.4, "b": 0.1, "c": 0.3, "d": None}))
    assert found.promoted == ("b", "c")
    assert found.stopped == {
        "a": "objective 0.4000 is above the median 0.3000 of 3; 800 graphs saved",
        "d": NO_OBJECTIVE,
    }
    assert MedianStopping().decide(view(0, {"a": None})).stopped == {"a": NO_OBJECTIVE}


def test_a_fixed_budget_decides_once():
    first = {f"c{i}": i / 10 for i in range(9)}
    found = FixedBudget(3).decide(view(0, first))
    assert found.promoted == ("c0", "c1", "c2")
    assert found.stopped["c3"] == "objective 0.3 is rank 4 of 9; 3 may pass; 800 graphs saved"
    later = FixedBudget(3).decide(view(1, first, {"c0": 0.5, "c1": 0.2, "c2": None}))
    assert later.promoted == ("c1", "c0")
    assert later.stopped == {"c2": NO_OBJECTIVE}
    assert [FixedBudget(3).most(9, rung, 2.0) for rung in range(3)] == [9, 3, 3]


def test_a_curve_that_still_falls_is_expected_to_go_on():
    assert extrapolated([(100, 0.8), (300, 0.4)], 900) == pytest.approx(0.2)
    assert extrapolated([(100, 0.8)], 900) == 0.8
    assert extrapolated([(100, 0.3), (300, 0.4)], 900) == 0.4  # it rises: no better is expected, and no worse
    assert extrapolated([(100, 0.8), (300, 1e-9)], 900) == pytest.approx(1e-9 / 3)  # held to what trainings have
    first, second = {"flat": 0.41, "falling": 0.9}, {"flat": 0.40, "falling": 0.45}
    found = ExtrapolatedCurves().decide(view(1, first, second))
    assert found.promoted == ("falling",)
    assert found.stopped["flat"].startswith("expected objective 0.39")
    assert ExtrapolatedCurves().decide(view(0, first)).promoted == ("flat",)


def test_what_costs_more_must_gain_more():
    first, second = {"cheap": 0.8, "dear": 0.8, "flat": 0.38}, {"cheap": 0.40, "dear": 0.39, "flat": 0.38}
    seconds = {"cheap": 10.0, "dear": 100.0, "flat": 1.0}
    found = GainPerCost().decide(view(1, first, second, seconds=seconds))
    assert found.promoted == ("cheap",)
    equal = GainPerCost().decide(view(1, first, second, seconds=dict.fromkeys(seconds, 10.0)))
    assert equal.promoted == ("dear",)
    assert "loss minus gain per second" in found.stopped["flat"]


@pytest.mark.parametrize("name", sorted(STOPPING.built_in))
@given(st.lists(st.one_of(st.none(), st.floats(1e-3, 2)), min_size=1, max_size=24), st.integers(1, 6))
def test_every_policy_promotes_or_stops_each_once_and_within_its_bound(name, objectives, wave):
    policy = make_policy(STOPPING, default_choice(STOPPING, name), StoppingPolicy)
    names = [f"c{i:02d}" for i in range(len(objectives))]
    chance = random.Random(0)
    before = {n: chance.random() for n in names}
    known, promoted = {}, []
    for start in range(0, len(names), wave):
        entrants = names[start : start + wave]
        known |= dict(zip(entrants, objectives[start : start + wave], strict=False))
        at = RungResults(1, RUNGS, {0: before, 1: dict(known)}, {1: dict.fromkeys(known, 2.0)}, tuple(entrants),
                      frozenset(promoted), 2.0)  # fmt: skip
        found = policy.decide(at)
        assert found == policy.decide(at)
        promoted += found.promoted
        assert set(found.stopped) | set(found.promoted) >= set(entrants)
        assert not set(found.stopped) & set(found.promoted)
    assert len(promoted) == len(set(promoted))
    assert all(known[n] is not None for n in promoted)
    if name != "fixed":  # which lets all that it kept go on
        assert len(promoted) <= policy.most(len(names), 1, 2.0)
