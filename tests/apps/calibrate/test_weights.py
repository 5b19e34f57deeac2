"""Weights of the members: known best combinations, shares, and what they do to mean and spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import SplitPredictions, TargetPredictions, mean_and_spread
from gfm_pipeline.apps.calibrate.metrics import mae
from gfm_pipeline.apps.calibrate.weights import STRENGTH, effective_members, fit_weights

Array = NDArray[np.float64]


def quantity(error: Array, per_group: int, unit: float, seed: int = 0) -> TargetPredictions:
    """Return predictions off by ``error`` [K, n], in groups of ``per_group`` entries."""
    label = unit * np.random.default_rng(seed).normal(size=error.shape[1])
    members = label + unit * error
    return TargetPredictions(label, members, *mean_and_spread(members), np.arange(error.shape[1]) // per_group)


def split(energy: Array, forces: Array) -> SplitPredictions:
    """Return a split whose forces are in eV/A and energies in a hundredth of that, two structures per group."""
    n = energy.shape[1]
    per_group = 2 * max(1, forces.shape[1] // max(n, 1))
    return SplitPredictions(
        {"energy": quantity(energy, 2, 0.01), "forces": quantity(forces, per_group, 1.0, seed=1)}, n
    )


def correlated(deviation: Array, n: int, seed: int, common: float = 0.0) -> SplitPredictions:
    """Return members whose errors have these standard deviations [K] and a part all share."""
    rng = np.random.default_rng(seed)

    def errors(entries: int) -> Array:
        return deviation[:, None] * rng.normal(size=(len(deviation), entries)) + common * rng.normal(size=entries)

    return split(errors(n), errors(12 * n))


def test_the_best_combination_is_recovered() -> None:
    # Independent errors: the best weights are those of inverse variances, for energies and forces alike.
    deviation = np.array([1.0, 1.3, 1.6, 2.0])
    best = deviation**-2 / np.sum(deviation**-2)
    assert effective_members(best) > 2.0  # inside what is allowed
    np.testing.assert_allclose(fit_weights(correlated(deviation, 4000, 1)), best, atol=0.02)


def test_a_member_that_only_repeats_another_ones_errors_gets_no_more_than_its_part() -> None:
    # Two copies of one member and an independent one, all equally good: half to the pair, half to the other.
    rng = np.random.default_rng(2)
    one, other = (rng.normal(size=(1, 6000)) for _ in range(2))
    two, another = (rng.normal(size=(1, 24000)) for _ in range(2))
    found = fit_weights(split(np.vstack([one, one, other]), np.vstack([two, two, another])))
    assert found[0] + found[1] == pytest.approx(0.5, abs=0.02)
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_equal_members_have_exactly_equal_weights() -> None:
    rng = np.random.default_rng(3)
    same = split(np.repeat(rng.normal(size=(1, 50)), 3, axis=0), np.repeat(rng.normal(size=(1, 600)), 3, axis=0))
    assert fit_weights(same).tolist() == [1 / 3] * 3
    perfect = split(np.zeros((3, 50)), np.zeros((3, 600)))
    assert fit_weights(perfect).tolist() == [1 / 3] * 3


def test_a_bad_member_gets_little_and_the_mean_is_better_for_it() -> None:
    deviation = np.array([1.0, 1.0, 1.0, 6.0])
    validation, test = (correlated(deviation, 200, seed, common=0.5) for seed in (4, 5))
    found = fit_weights(validation)
    assert found[3] < 0.05
    assert found[:3].min() > 0.2
    weighted = test.weighted(found)
    assert mae(weighted.targets["energy"].error) < 0.7 * mae(test.targets["energy"].error)
    assert mae(weighted.targets["forces"].error) < 0.7 * mae(test.targets["forces"].error)


def test_few_groups_hold_the_weights_near_equal_and_many_let_go() -> None:
    deviation = np.array([1.0, 1.2, 1.5, 1.8])

    def distance(n: int, strength: float) -> float:
        found = [fit_weights(correlated(deviation, n, seed), strength) for seed in range(12)]
        best = deviation**-2 / np.sum(deviation**-2)
        return float(np.mean([np.abs(one - best).sum() for one in found]))

    # Six structures in three groups: an unshrunk fit is further from the truth than the shrunk one.
    assert distance(6, STRENGTH) < 0.8 * distance(6, 0.0)
    assert distance(2000, STRENGTH) < 0.1
    assert np.abs(fit_weights(correlated(deviation, 6, 0), 1e6) - 0.25).max() < 1e-4


def test_outliers_do_not_choose_the_members() -> None:
    # The first member is three times better everywhere but on one structure in a hundred.
    rng = np.random.default_rng(6)

    def errors(n: int) -> Array:
        found = np.array([[1.0], [3.0], [3.0]]) * rng.normal(size=(3, n))
        found[0, ::100] *= 60.0
        return found

    found = fit_weights(split(errors(400), errors(4800)))
    assert found[0] > 0.5


def test_one_member_and_no_labels() -> None:
    rng = np.random.default_rng(7)
    assert fit_weights(split(rng.normal(size=(1, 20)), rng.normal(size=(1, 240)))).tolist() == [1.0]
    assert fit_weights(split(np.zeros((4, 0)), np.zeros((4, 0)))).tolist() == [0.25] * 4
    forces = quantity(np.array([[1.0], [2.0]]) * rng.normal(size=(2, 1800)), 18, 1.0)
    only_forces = SplitPredictions({"energy": quantity(np.zeros((2, 0)), 2, 0.01), "forces": forces}, 0)
    assert fit_weights(only_forces)[0] == pytest.approx(0.8, abs=0.05)  # inverse variances: 4 to 1


@given(
    k=st.integers(1, 9), n=st.integers(1, 40), seed=st.integers(0, 10**6), unit=st.sampled_from([1e-6, 1.0, 1e4]),
    outliers=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_weights_are_shares_and_nobody_is_the_ensemble(k: int, n: int, seed: int, unit: float, outliers: bool) -> None:
    rng = np.random.default_rng(seed)
    deviation = unit * 10.0 ** rng.uniform(-2, 1, size=(k, 1))
    forces = deviation * (rng.standard_cauchy((k, 6 * n)) if outliers else rng.normal(size=(k, 6 * n)))
    found = fit_weights(split(deviation * rng.normal(size=(k, n)), forces))
    assert found.shape == (k,)
    assert (found >= 0.0).all()
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert effective_members(found) >= np.sqrt(k) * (1 - 1e-6)


def test_the_order_of_members_does_not_matter() -> None:
    validation = correlated(np.array([1.0, 1.7, 1.2, 2.5]), 100, 8, common=0.3)
    order = np.array([2, 0, 3, 1])
    mixed = split(
        (validation.targets["energy"].members - validation.targets["energy"].label)[order] / 0.01,
        (validation.targets["forces"].members - validation.targets["forces"].label)[order],
    )
    np.testing.assert_allclose(fit_weights(mixed), fit_weights(validation)[order], atol=1e-3)


# mean and spread


def test_equal_weights_are_todays_numbers_to_the_last_bit() -> None:
    members = np.random.default_rng(9).normal(size=(7, 100, 3))
    for weights in (None, np.full(7, 1 / 7)):
        mean, spread = mean_and_spread(members, weights)
        assert np.array_equal(mean, members.mean(axis=0))
        assert np.array_equal(spread, members.std(axis=0, ddof=1))
    mean, spread = mean_and_spread(members[:1], np.ones(1))
    assert np.array_equal(mean, members[0])
    assert not spread.any()


def test_weights_almost_equal_give_almost_the_same() -> None:
    members = np.random.default_rng(10).normal(size=(4, 50))
    weights = 0.25 + np.array([1e-9, -1e-9, 0.0, 0.0])
    for ours, plain in zip(mean_and_spread(members, weights), mean_and_spread(members), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-7)


def test_the_weighted_variance_is_unbiased() -> None:
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    mean, spread = mean_and_spread(3.0 + 2.0 * np.random.default_rng(11).normal(size=(4, 400000)), weights)
    assert np.mean(spread**2) == pytest.approx(4.0, rel=0.01)
    assert np.std(mean) == pytest.approx(2.0 / np.sqrt(effective_members(weights)), rel=0.01)


def test_a_member_without_weight_changes_nothing() -> None:
    members = np.random.default_rng(12).normal(size=(3, 40))
    members[2] *= 1e3
    with_it = mean_and_spread(members, np.array([0.5, 0.5, 0.0]))
    for ours, without in zip(with_it, mean_and_spread(members[:2]), strict=True):
        np.testing.assert_allclose(ours, without, rtol=1e-12)
    mean, spread = mean_and_spread(members, np.array([0.0, 1.0, 0.0]))
    assert np.array_equal(mean, members[1])
    assert not spread.any()
