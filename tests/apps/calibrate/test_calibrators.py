"""Calibrators against known answers: what is fitted, what holds on fresh data, and what outliers do not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfm_pipeline.apps.calibrate import metrics
from gfm_pipeline.apps.calibrate.aggregate import TargetPredictions, mean_and_spread
from gfm_pipeline.apps.calibrate.calibrators import conformal_quantile, deviation, fit_calibration, halfwidth
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.apps.calibrate.evaluate import FIGURE_POINTS, evaluate
from gfm_pipeline.core.contracts.evaluation import QuantityCalibration
from gfm_pipeline.core.errors import DataError

LEVEL = 0.9


def heteroscedastic(n: int, members: int, seed: int, *, scale: float = 2.5, floor: float = 0.02) -> TargetPredictions:
    """An ensemble whose members scatter by t around a mean that is off by N(0, (scale t)^2 + floor^2)."""
    rng = np.random.default_rng(seed)
    label = rng.normal(size=n)
    t = 0.03 * np.exp(rng.normal(scale=0.8, size=n))
    centre = label + np.hypot(scale * t, floor) * rng.normal(size=n)
    scatter = t * rng.normal(size=(members, n))
    scatter -= scatter.mean(axis=0)
    predictions = centre + scatter
    mean, spread = mean_and_spread(predictions)
    return TargetPredictions(label, predictions, mean, spread, np.arange(n))


def test_conformal_quantile_in_the_textbook_case() -> None:
    score = np.array([5.0, 1.0, 3.0, 9.0, 7.0, 2.0, 8.0, 4.0, 6.0])
    assert conformal_quantile(score, 0.9) == 9.0  # ceil(10 * 0.9) = 9th of nine
    assert conformal_quantile(score, 0.8) == 8.0
    assert conformal_quantile(score, 0.5) == 5.0
    assert conformal_quantile(score[:8], 0.9) == math.inf  # ceil(9 * 0.9) = 9th of eight
    assert conformal_quantile(np.arange(1.0, 20.0), 0.95) == 19.0


@pytest.mark.parametrize("n", [9, 12, 19])
def test_conformal_coverage_is_exact_for_small_n(n: int) -> None:
    """A new exchangeable score is covered with probability ceil((n + 1) level) / (n + 1), whatever its law."""
    rng = np.random.default_rng(n)
    repeats = 20000
    score = rng.exponential(size=(repeats, n + 1))
    covered = [row[-1] <= conformal_quantile(row[:-1], LEVEL) for row in score]
    exact = math.ceil(round((n + 1) * LEVEL, 9)) / (n + 1)
    assert np.mean(covered) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / repeats))


def entries_of(spread: np.ndarray, **known: np.ndarray) -> Entries:
    return Entries(spread, np.zeros_like(spread), **known)


def fitted(error: np.ndarray, spread: np.ndarray, **known: np.ndarray) -> QuantityCalibration:
    return fit_calibration(error, entries_of(spread, **known), LEVEL)


def test_scale_and_floor_are_recovered() -> None:
    rng = np.random.default_rng(5)
    t = 0.03 * np.exp(rng.normal(scale=0.8, size=20000))
    error = np.hypot(2.5 * t, 0.05) * rng.normal(size=len(t))
    found = fitted(error, t)
    assert found.scale == pytest.approx(2.5, rel=0.05)
    assert found.floor == pytest.approx(0.05, rel=0.07)
    per_milli = fitted(error * 1e-3, t * 1e-3)
    assert per_milli.scale == pytest.approx(found.scale, rel=1e-3)
    assert per_milli.floor == pytest.approx(found.floor * 1e-3, rel=1e-3)


def test_powers_of_size_and_distance_are_recovered() -> None:
    rng = np.random.default_rng(7)
    n = 4000
    size, distance = rng.integers(4, 400, n).astype(float), rng.uniform(0.2, 1.0, n)
    error = 0.02 * (size / 50.0) ** -0.5 * distance**1.5 * rng.normal(size=n)
    found = fitted(error, np.full(n, 1e-5), size=size, distance=distance)
    assert found.model is not None
    assert found.model.size_power == pytest.approx(0.5, abs=0.05)
    assert found.model.distance_power == pytest.approx(1.5, abs=0.15)
    known = entries_of(np.full(3, 1e-5), size=np.array([4.0, 400.0, 400.0]), distance=np.array([1.0, 1.0, 5.0]))
    small, large, far = deviation(found, known)
    assert small / large == pytest.approx(10.0, rel=0.2)
    assert far == pytest.approx(5.0 * large)
    # Few groups determine no powers.
    few = fit_calibration(error, entries_of(np.full(n, 1e-5), size=size, distance=distance), LEVEL, np.arange(n) % 2)
    assert few.model is not None
    assert few.model.distance_power < found.model.distance_power


@pytest.mark.parametrize("freedom", [1.5, 2.0, 3.0])
def test_outliers_do_not_rule_and_calibrating_is_never_worse(freedom: float) -> None:
    """Heavy tails, whose few wild errors made the floor of a Gaussian likelihood everybody's half width."""
    for seed in range(2):
        rng = np.random.default_rng([seed, int(10 * freedom)])
        t = 0.01 * np.exp(rng.normal(size=4000))
        error = t * rng.standard_t(freedom, size=4000)
        found = fitted(error[:2000], t[:2000])
        stated = deviation(found, entries_of(t))
        before = metrics.miscalibration_area(error[2000:], t[2000:])
        assert metrics.miscalibration_area(error[2000:], stated[2000:]) <= before + 0.015
        assert metrics.miscalibration_area(error[2000:], stated[2000:]) < 0.06
        assert found.floor < 0.3 * float(np.median(stated))
        covered = np.abs(error[2000:]) <= halfwidth(found, entries_of(t[2000:]))
        assert np.mean(covered) == pytest.approx(LEVEL, abs=0.035)
        tenths = np.array_split(np.argsort(t[2000:]), 10)  # conditional on the spread, too
        assert min(np.mean(covered[part]) for part in tenths) > 0.8


def test_a_spread_that_is_right_already_stays_so() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        t = 0.01 * np.exp(rng.normal(size=600))
        error = t * rng.normal(size=600)
        stated = deviation(fitted(error[:300], t[:300]), entries_of(t[300:]))
        before = metrics.miscalibration_area(error[300:], t[300:])
        assert metrics.miscalibration_area(error[300:], stated) <= before + 0.04


def vectors(n: int, seed: int, relative: float) -> tuple[np.ndarray, Entries]:
    """Errors of vectors with a floor of 0.01 and a share of their length; every tenth vanishes by symmetry."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(n, 3)) * np.exp(rng.normal(size=(n, 1)))
    mean[::10] = 0.0
    spread = 0.002 * np.exp(rng.normal(size=(n, 3)))
    spread[::10] = 1e-8
    error = np.hypot(0.01, relative * np.linalg.norm(mean, axis=1, keepdims=True)) * rng.normal(size=(n, 3))
    error[::10] = 1e-7
    known = Entries(spread.reshape(-1), mean.reshape(-1), distance=np.full(3 * n, 0.5), vector=True)
    return error.reshape(-1), known


def test_errors_grow_with_the_length_of_vectors_and_what_vanishes_by_symmetry_has_no_floor() -> None:
    error, known = vectors(2000, 1, relative=0.05)
    found = fit_calibration(error, known, LEVEL)
    assert found.model is not None
    assert found.model.relative == pytest.approx(0.05, rel=0.2)
    bound = halfwidth(found, known).reshape(-1, 3)
    still = np.zeros(len(bound), dtype=bool)
    still[::10] = True
    assert bound[still].max() < 1e-4
    assert np.quantile(bound[~still], 0.01) > 0.005
    assert (np.abs(error.reshape(-1, 3)[still]) <= bound[still]).all()
    # The same where the environment is not known: nothing is said of its symmetry.
    far = Entries(known.spread[:3], known.mean[:3], distance=np.full(3, 1.5), vector=True)
    assert halfwidth(found, far).min() > 0.005


def test_elements_have_quantiles_of_their_own_where_they_have_enough_entries() -> None:
    rng = np.random.default_rng(2)
    element = rng.choice([1, 8, 26], p=[0.6, 0.39, 0.01], size=6000)
    error = np.where(element == 8, rng.uniform(-1, 1, 6000), rng.standard_t(3, size=6000)) * 0.1
    known = entries_of(np.full(6000, 0.1), element=element)
    found = fit_calibration(error, known, LEVEL, np.arange(6000) // 20)
    assert set(found.by_element) == {"H", "O"}
    covered = np.abs(error) <= halfwidth(found, known)
    for number in (1, 8):
        assert np.mean(covered[element == number]) == pytest.approx(LEVEL, abs=0.005)
    other = halfwidth(found, entries_of(np.full(1, 0.1), element=np.array([26])))
    assert other == pytest.approx(found.quantile * deviation(found, entries_of(np.full(1, 0.1))))


def test_calibrations_of_earlier_versions_give_what_they_gave() -> None:
    old = QuantityCalibration(2.5, 0.02, 1.7, LEVEL, 500, True)
    known = entries_of(
        np.array([0.01, 0.03]), size=np.array([3.0, 300.0]), distance=np.array([0.4, 2.5]), element=np.array([1, 8])
    )
    expected = [1.7 * math.hypot(2.5 * 0.01, 0.02), 2.5 * 1.7 * math.hypot(2.5 * 0.03, 0.02)]
    np.testing.assert_allclose(halfwidth(old, known), expected, rtol=1e-14)


def test_a_useless_spread_leaves_the_floor_alone() -> None:
    rng = np.random.default_rng(6)
    error = rng.normal(size=5000)
    found = fitted(error, np.zeros(5000))
    assert found.scale == 0.0
    assert found.floor == pytest.approx(metrics.rmse(error), rel=0.03)
    # Anti-correlated: the larger the spread the smaller the error.
    spread = 1.0 / (0.1 + np.abs(error))
    found = fitted(error, spread)
    assert found.scale * np.median(spread) < 0.1
    assert found.floor == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("members", [2, 3, 5])
def test_calibrated_intervals_cover_fresh_data_and_raw_ones_do_not(members: int) -> None:
    found, raw = [], []
    for seed in range(4):
        validation = heteroscedastic(2000, members, seed)
        test = heteroscedastic(2000, members, 1000 + seed)
        result = evaluate(validation, test, LEVEL, null_mae=1.0, seed=0).report
        found.append(result.coverage_calibrated)
        raw.append(result.coverage_raw)
        assert result.nll_calibrated < result.nll_raw
        assert result.miscalibration_calibrated < result.miscalibration_raw
        assert result.ence_calibrated < result.ence_raw
        assert result.crps_calibrated < result.crps_raw
        # Validation and test each contribute a binomial error.
        assert abs(result.coverage_calibrated - LEVEL) < 4 * math.sqrt(2 * LEVEL * (1 - LEVEL) / 2000)
        assert result.coverage_error == pytest.approx(math.sqrt(LEVEL * (1 - LEVEL) / 2000), rel=0.15)
    assert abs(np.mean(found) - LEVEL) < 0.015
    assert max(raw) < 0.75


def test_one_member_has_no_spread_and_a_floor() -> None:
    validation, test = heteroscedastic(500, 1, 7), heteroscedastic(500, 1, 8)
    result = evaluate(validation, test, LEVEL, null_mae=1.0, seed=0)
    assert (test.spread == 0.0).all()
    assert result.calibration.scale == 0.0
    assert result.report.coverage_raw == 0.0
    assert result.report.rank_correlation == 0.0
    assert abs(result.report.coverage_calibrated - LEVEL) < 0.06
    assert all(math.isfinite(v) for v in vars(result.report).values() if isinstance(v, float))


def test_too_little_validation_is_said_not_hidden() -> None:
    error = np.array([0.1, -0.3, 0.2])
    calibration = fitted(error, np.full(3, 0.1))
    assert not calibration.guaranteed
    assert (np.abs(error) <= halfwidth(calibration, entries_of(np.full(3, 0.1))) * (1 + 1e-12)).all()
    empty = TargetPredictions(np.zeros(0), np.zeros((2, 0)), *(np.zeros(0),) * 2, np.zeros(0, dtype=np.int64))
    some = heteroscedastic(20, 2, 0)
    assert evaluate(empty, some, LEVEL, 1.0, 0).report.n == 0
    assert evaluate(some, empty, LEVEL, 1.0, 0).figure == {}
    with pytest.raises(DataError, match="no label"):
        fitted(np.zeros(0), np.zeros(0))
    with pytest.raises(DataError, match="not finite"):
        fitted(np.array([np.nan]), np.zeros(1))


def test_perfect_predictions_do_not_divide_by_zero() -> None:
    zeros = np.zeros(20)
    for spread in (zeros, np.full(20, 0.1)):
        calibration = fitted(zeros, spread)
        assert calibration.floor > 0.0 or calibration.scale > 0.0
        assert np.isfinite(halfwidth(calibration, entries_of(spread))).all()


@given(st.floats(0, 1e3), st.floats(1e-9, 1e3), st.floats(0, 1e3))
def test_deviation_is_never_below_the_floor(scale: float, floor: float, spread: float) -> None:
    calibration = QuantityCalibration(scale, floor, 1.6, LEVEL, 100, True)
    assert deviation(calibration, entries_of(np.array([spread])))[0] >= floor * (1 - 1e-12)


def test_figures_get_a_sample_and_the_same_one_each_time() -> None:
    validation, test = heteroscedastic(200, 3, 9), heteroscedastic(2 * FIGURE_POINTS, 3, 10)
    one, two = (evaluate(validation, test, LEVEL, 1.0, seed=3).figure for _ in range(2))
    assert all(len(one[key]) == FIGURE_POINTS for key in ("label", "mean", "spread", "deviation"))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert one["curve_expected"][[0, -1]].tolist() == [0.0, 1.0]
