"""Metrics against closed forms, calibrators against known answers, and the whole fit on files."""

from __future__ import annotations

import math
import statistics
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from gfm_pipeline.apps.calibrate import metrics
from gfm_pipeline.apps.calibrate.aggregate import TargetPredictions, aggregate, mean_and_spread, predictions_file
from gfm_pipeline.apps.calibrate.calibrators import (
    Calibration,
    conformal_quantile,
    fit_calibration,
    fit_scale_floor,
)
from gfm_pipeline.apps.calibrate.evaluate import FIGURE_POINTS, evaluate
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import MemberRef
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


# metrics


def test_errors_are_the_textbook_ones() -> None:
    error = np.array([3.0, -4.0, 0.0])
    assert metrics.mae(error) == pytest.approx(7 / 3)
    assert metrics.rmse(error) == pytest.approx(5 / math.sqrt(3))


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


# calibrators


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


def test_scale_and_floor_are_recovered() -> None:
    validation = heteroscedastic(40000, 8, seed=4, scale=2.5, floor=0.05)
    # The spread of eight members estimates t with chi(7) noise, so give the fit the true t here.
    rng = np.random.default_rng(5)
    t = validation.spread
    error = np.hypot(2.5 * t, 0.05) * rng.normal(size=len(t))
    scale, floor = fit_scale_floor(error, t)
    assert scale == pytest.approx(2.5, rel=0.03)
    assert floor == pytest.approx(0.05, rel=0.05)
    per_milli = fit_scale_floor(error * 1e-3, t * 1e-3)
    assert per_milli[0] == pytest.approx(scale, rel=1e-3)
    assert per_milli[1] == pytest.approx(floor * 1e-3, rel=1e-3)


def test_the_fit_is_no_worse_than_any_point_of_a_grid() -> None:
    for seed in range(5):
        data = heteroscedastic(300, 4, seed)
        scale, floor = fit_scale_floor(data.error, data.spread)
        best = metrics.gaussian_nll(data.error, np.hypot(scale * data.spread, floor))
        for a in np.linspace(0.0, 8.0, 41):
            for b in np.geomspace(1e-3, 0.5, 25):
                assert best <= metrics.gaussian_nll(data.error, np.hypot(a * data.spread, b)) + 1e-6


def test_a_useless_spread_leaves_the_floor_alone() -> None:
    rng = np.random.default_rng(6)
    error = rng.normal(size=5000)
    assert fit_scale_floor(error, np.zeros(5000)) == (0.0, pytest.approx(metrics.rmse(error)))
    # Anti-correlated: the larger the spread the smaller the error.
    spread = 1.0 / (0.1 + np.abs(error))
    scale, floor = fit_scale_floor(error, spread)
    assert scale < 0.02
    assert floor == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("members", [2, 3, 5])
def test_calibrated_intervals_cover_fresh_data_and_raw_ones_do_not(members: int) -> None:
    found, raw = [], []
    for seed in range(8):
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
    assert abs(np.mean(found) - LEVEL) < 0.01
    assert max(raw) < 0.75


def test_one_member_has_no_spread_and_a_floor() -> None:
    validation, test = heteroscedastic(500, 1, 7), heteroscedastic(500, 1, 8)
    result = evaluate(validation, test, LEVEL, null_mae=1.0, seed=0)
    assert (test.spread == 0.0).all()
    assert result.calibration.scale == 0.0
    assert result.report.coverage_raw == 0.0
    assert result.report.rank_correlation == 0.0
    assert abs(result.report.coverage_calibrated - LEVEL) < 0.06
    assert all(math.isfinite(v) for v in vars(result.report).values())


def test_too_little_validation_is_said_not_hidden() -> None:
    error = np.array([0.1, -0.3, 0.2])
    calibration = fit_calibration(error, np.full(3, 0.1), LEVEL)
    assert not calibration.guaranteed
    assert (np.abs(error) <= calibration.halfwidth(np.full(3, 0.1)) * (1 + 1e-12)).all()
    empty = TargetPredictions(np.zeros(0), np.zeros((2, 0)), *(np.zeros(0),) * 2, np.zeros(0, dtype=np.int64))
    some = heteroscedastic(20, 2, 0)
    assert evaluate(empty, some, LEVEL, 1.0, 0).report.n == 0
    assert evaluate(some, empty, LEVEL, 1.0, 0).figure == {}
    with pytest.raises(DataError, match="no label"):
        fit_calibration(np.zeros(0), np.zeros(0), LEVEL)
    with pytest.raises(DataError, match="not finite"):
        fit_calibration(np.array([np.nan]), np.zeros(1), LEVEL)


def test_perfect_predictions_do_not_divide_by_zero() -> None:
    zeros = np.zeros(20)
    for spread in (zeros, np.full(20, 0.1)):
        calibration = fit_calibration(zeros, spread, LEVEL)
        assert calibration.floor > 0.0 or calibration.scale > 0.0
        assert np.isfinite(calibration.halfwidth(spread)).all()


@given(st.floats(0, 1e3), st.floats(1e-9, 1e3), st.floats(0, 1e3))
def test_deviation_is_never_below_the_floor(scale: float, floor: float, spread: float) -> None:
    calibration = Calibration(scale, floor, 1.6, LEVEL, 100)
    assert calibration.deviation(np.array([spread]))[0] >= floor * (1 - 1e-12)


def test_figures_get_a_sample_and_the_same_one_each_time() -> None:
    validation, test = heteroscedastic(200, 3, 9), heteroscedastic(2 * FIGURE_POINTS, 3, 10)
    one, two = (evaluate(validation, test, LEVEL, 1.0, seed=3).figure for _ in range(2))
    assert all(len(one[key]) == FIGURE_POINTS for key in ("label", "mean", "spread", "deviation"))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert one["curve_expected"][[0, -1]].tolist() == [0.0, 1.0]


# aggregate


def write_predictions(folder: Path, dataset: str, split: Split, seed: int, *, label_seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    label_rng, rng = (
        np.random.default_rng([label_seed, *split.encode()]),
        np.random.default_rng([seed, *split.encode()]),
    )
    natoms = label_rng.integers(2, 6, size=60)
    energy, forces = 3.0 * natoms + label_rng.normal(size=60), label_rng.normal(size=(int(natoms.sum()), 3))
    np.savez(
        predictions_file(folder, dataset, split),
        natoms=natoms,
        group=np.arange(60) // 3,
        energy_reference=3.0 * natoms,
        energy_label=energy,
        forces_label=forces,
        energy=energy + 0.1 * natoms * rng.normal(size=60),
        forces=forces + 0.2 * rng.normal(size=forces.shape),
    )


def test_energies_are_per_atom_and_forces_per_component(tmp_path: Path) -> None:
    members = []
    for k in range(3):
        write_predictions(tmp_path / f"m{k}", "oxides", Split.TEST, seed=k + 1)
        members.append(MemberRef(f"m{k}", "", str(tmp_path / f"m{k}")))
    found = aggregate(members, "oxides", Split.TEST)
    files = [np.load(predictions_file(tmp_path / f"m{k}", "oxides", Split.TEST)) for k in range(3)]
    natoms = files[0]["natoms"]
    energies = [statistics.stdev(float(f["energy"][7] / natoms[7]) for f in files)]
    assert found.n_structures == 60
    assert found.targets["energy"].spread[7] == pytest.approx(energies[0], rel=1e-9)
    assert found.targets["energy"].label[7] == pytest.approx(files[0]["energy_label"][7] / natoms[7] - 3.0)
    assert found.targets["energy"].error[7] * natoms[7] == pytest.approx(
        np.mean([f["energy"][7] for f in files]) - files[0]["energy_label"][7]
    )
    assert found.targets["forces"].mean.shape == (3 * natoms.sum(),)
    assert found.targets["forces"].mean[5] == pytest.approx(np.mean([f["forces"][1, 2] for f in files]))
    assert np.bincount(found.targets["forces"].cluster)[0] == 3 * natoms[:3].sum()


def test_members_of_another_dataset_are_refused(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a", "oxides", Split.TEST, seed=1)
    write_predictions(tmp_path / "b", "oxides", Split.TEST, seed=2, label_seed=9)
    refs = [MemberRef(name, "", str(tmp_path / name)) for name in ("a", "b")]
    with pytest.raises(DataError, match="their datasets differ"):
        aggregate(refs, "oxides", Split.TEST)
    with pytest.raises(DataError, match="is missing"):
        aggregate(refs, "alloys", Split.TEST)


def test_missing_labels_are_left_out(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a", "oxides", Split.TEST, seed=1)
    path = predictions_file(tmp_path / "a", "oxides", Split.TEST)
    content = dict(np.load(path))
    content["energy_label"][:5] = np.nan
    np.savez(path, **content)
    found = aggregate([MemberRef("a", "", str(tmp_path / "a"))], "oxides", Split.TEST)
    assert len(found.targets["energy"].label) == 55
    assert len(found.targets["energy"].cluster) == 55
