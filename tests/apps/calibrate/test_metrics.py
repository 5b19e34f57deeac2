"""Metrics of errors and spreads against closed forms."""

from __future__ import annotations

import math
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from gfm_pipeline.apps.calibrate import metrics

LEVEL = 0.9


def test_errors_are_the_textbook_ones() -> None:
    error = np.array([3.0, -4.0, 0.0])
    assert metrics.mae(error) == pytest.approx(7 / 3)
    assert metrics.rmse(error) == pytest.approx(5 / math.sqrt(3))


def test_the_error_of_a_mean_counts_clusters_and_not_entries() -> None:
    values = np.random.default_rng(2).normal(size=400)
    alone = metrics.mean_error(values, np.arange(400))
    assert alone == pytest.approx(stats.sem(values), rel=1e-12)
    repeated = metrics.mean_error(np.repeat(values, 9), np.repeat(np.arange(400), 9))
    assert repeated == pytest.approx(alone, rel=1e-12)
    assert metrics.mean_error(values, np.zeros(400, dtype=np.int64)) is None


def test_nll_is_scipys_normal_density() -> None:
    rng = np.random.default_rng(0)
    error, spread = rng.normal(size=200), rng.uniform(0.1, 3.0, size=200)
    assert metrics.gaussian_nll(error, spread) == pytest.approx(
        -stats.norm.logpdf(error, scale=spread).mean(), rel=1e-12
    )


@pytest.mark.parametrize(("error", "spread"), [(0.0, 1.0), (1.3, 0.4), (-2.0, 0.7)])
def test_crps_is_the_integral_of_the_squared_difference_of_distributions(error: float, spread: float) -> None:
    below = integrate.quad(lambda y: stats.norm.cdf(y, scale=spread) ** 2, -12.0, -error)[0]
    above = integrate.quad(lambda y: (1.0 - stats.norm.cdf(y, scale=spread)) ** 2, -error, 12.0)[0]
    assert metrics.gaussian_crps(np.array([error]), np.array([spread])) == pytest.approx(below + above, rel=1e-6)


def test_crps_of_a_vanishing_spread_is_the_mae() -> None:
    error = np.random.default_rng(1).normal(size=50)
    assert metrics.gaussian_crps(error, np.zeros(50)) == pytest.approx(metrics.mae(error), rel=1e-4)


def test_normal_factor_is_the_standard_librarys_quantile() -> None:
    for level in (0.5, 0.9, 0.95):
        assert metrics.normal_factor(level) == pytest.approx(statistics.NormalDist().inv_cdf(0.5 + level / 2), rel=1e-9)


def test_calibration_curve_counts_what_lies_inside() -> None:
    rng = np.random.default_rng(2)
    error, spread = rng.normal(size=500) * 1.7, rng.uniform(0.5, 1.5, size=500)
    expected, observed = metrics.calibration_curve(error, spread, points=21)
    for level, found in zip(expected[1:-1], observed[1:-1], strict=True):
        assert found == metrics.coverage(error, metrics.normal_factor(level) * spread)
    assert (np.diff(observed) >= 0).all()


def test_miscalibration_area_has_its_closed_forms() -> None:
    # Right: the quantiles of the normal themselves. Spread far too small: nothing inside, area 1/2.
    # Spread too small by k: observed(p) = 2 Phi(z_p / k) - 1, integrated numerically.
    error = stats.norm.ppf((np.arange(20000) + 0.5) / 20000)
    ones = np.ones_like(error)
    assert metrics.miscalibration_area(error, ones) < 1e-4
    assert metrics.miscalibration_area(error, 1e-4 * ones) == pytest.approx(0.5, abs=0.01)
    exact = integrate.quad(lambda p: p - (2 * stats.norm.cdf(stats.norm.ppf((1 + p) / 2) / 3) - 1), 0, 1)[0]
    assert metrics.miscalibration_area(error, ones / 3) == pytest.approx(exact, abs=2e-3)


def test_ence_of_a_spread_off_by_a_factor_is_that_factor_less_one() -> None:
    spread = np.repeat(np.linspace(0.1, 2.0, 20), 100)
    error = spread * np.tile([1.0, -1.0], 1000)
    assert metrics.ence(error, spread) == pytest.approx(0.0, abs=1e-12)
    assert metrics.ence(3.0 * error, spread) == pytest.approx(2.0, rel=1e-9)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
@settings(max_examples=60, deadline=None)
def test_spearman_equals_scipys_where_scipys_exists(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    ours = metrics.spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert ours == 0.0
    else:
        assert ours == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)


def test_spearman_of_a_constant_spread_is_zero_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.spearman(np.zeros(10), np.arange(10.0)) == 0.0
        assert metrics.spearman(np.zeros(1), np.zeros(1)) == 0.0


def test_coverage_error_of_independent_entries_is_binomial_and_grows_with_clusters() -> None:
    error = np.random.default_rng(3).normal(size=1000)
    halfwidth = np.full(1000, metrics.normal_factor(LEVEL))
    inside = metrics.coverage(error, halfwidth)
    alone = metrics.coverage_error(error, halfwidth, np.arange(1000))
    assert alone == pytest.approx(math.sqrt(inside * (1 - inside) / 999), rel=1e-9)
    # Ten identical copies of each entry carry no more information than one.
    copies = metrics.coverage_error(np.repeat(error, 10), np.repeat(halfwidth, 10), np.repeat(np.arange(1000), 10))
    assert copies == pytest.approx(alone, rel=1e-9)
    assert metrics.coverage_error(error, halfwidth, np.zeros(1000, dtype=np.int64)) == 0.5
    assert metrics.coverage_error(error, np.full(1000, 99.0), np.arange(1000) // 100) == pytest.approx(1 / 12)
