"""Promotion from rung to rung, and the choice of members."""

from hypothesis import given
from hypothesis import strategies as st

from gfm_pipeline.search.rungs import choose_members, promote

values = st.lists(st.one_of(st.none(), st.floats(0, 2, allow_nan=False)), min_size=1, max_size=40)


def test_best_half_is_promoted():
    verdict = promote({"a": 0.5, "b": 0.2, "c": None, "d": 0.4}, ["a", "b", "c", "d"], frozenset(), 2)
    assert verdict.promoted == ("b", "d")
    assert verdict.stopped["a"] == "objective 0.5000 is rank 3 of 4; 2 may pass"
    assert "no finite objective" in verdict.stopped["c"]


def test_a_late_wave_may_revive_an_earlier_candidate():
    first = promote({"a": 0.5, "b": 0.6}, ["a", "b"], frozenset(), 2)
    assert first.promoted == ("a",)
    second = promote({"a": 0.5, "b": 0.6, "c": 0.9, "d": 0.8}, ["c", "d"], frozenset(first.promoted), 2)
    assert second.promoted == ("b",)
    assert set(second.stopped) == {"c", "d"}


@given(values, st.floats(1.5, 4), st.integers(1, 8))
def test_cap_holds_whatever_the_waves(objectives, reduction, wave):
    names = [f"c{i}" for i in range(len(objectives))]
    known, promoted = {}, []
    for start in range(0, len(names), wave):
        entrants = names[start : start + wave]
        known |= dict(zip(entrants, objectives[start : start + wave], strict=False))
        verdict = promote(known, entrants, frozenset(promoted), reduction)
        promoted += verdict.promoted
        assert set(verdict.stopped) | set(verdict.promoted) >= set(entrants)
        assert len(promoted) == len(set(promoted)) <= int(len(known) / reduction)
        assert all(known[name] is not None for name in promoted)


def test_members_prefer_high_rungs_and_mixed_algorithms():
    finalists = [("a", 2, 0.1, "X"), ("b", 2, 0.2, "X"), ("c", 2, 0.3, "X"), ("d", 1, 0.05, "Y"), ("e", 0, 0.01, "Y")]
    assert [n for n, _, _ in choose_members(finalists, 3, 2)] == ["a", "b", "d"]
    assert [n for n, _, _ in choose_members(finalists, 3, 3)] == ["a", "b", "c"]
    # The cap is lifted rather than leave the ensemble short.
    assert [n for n, _, _ in choose_members(finalists[:3], 3, 1)] == ["a", "b", "c"]
