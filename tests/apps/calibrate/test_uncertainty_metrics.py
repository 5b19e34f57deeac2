"""Metrics of uncertainty against uncertainty-toolbox, scikit-learn and closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from gfm_pipeline.apps.calibrate import metrics, ranking


@pytest.fixture(params=[0, 1, 2])
def residuals(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Errors and spreads that are over-confident, under-confident, and both (the curve crosses the diagonal)."""
    rng = np.random.default_rng(request.param)
    spread = np.exp(rng.normal(size=1500))
    drawn = [rng.normal(size=1500), 0.4 * rng.normal(size=1500), rng.standard_t(2, size=1500) * 0.7]
    return spread * drawn[request.param], spread


def test_metrics_are_those_of_uncertainty_toolbox(residuals: tuple[np.ndarray, np.ndarray]) -> None:
    with warnings.catch_warnings():  # what it imports warns, and that is not ours to mend
        warnings.simplefilter("ignore")
        calibration = pytest.importorskip(
            "uncertainty_toolbox.metrics_calibration", reason="uncertainty-toolbox is not installed"
        )
        from uncertainty_toolbox import metrics_scoring_rule as scores
    error, spread = residuals
    label = np.random.default_rng(9).normal(size=len(error))
    given = label + error, spread, label
    error = given[0] - label  # rounded as it rounds
    theirs = {
        metrics.gaussian_nll: scores.nll_gaussian(*given),
        metrics.gaussian_crps: scores.crps_gaussian(*given),
        metrics.miscalibration_area: calibration.miscalibration_area(*given, num_bins=101, vectorized=True),
        metrics.calibration_error: calibration.root_mean_squared_calibration_error(
            *given, num_bins=101, vectorized=True
        ),
    }
    for ours, expected in theirs.items():
        assert ours(error, spread) == pytest.approx(float(expected), abs=1e-10)
    assert metrics.sharpness(spread) == pytest.approx(float(calibration.sharpness(spread)), abs=1e-10)


def test_finding_errors_is_scored_as_scikit_learn_scores_it() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(3)
    for uncertainty in (rng.normal(size=400), rng.integers(0, 5, 400).astype(float)):
        positive = rng.random(400) < 0.2 + 0.05 * uncertainty
        assert ranking.auroc(uncertainty, positive) == pytest.approx(
            sklearn.roc_auc_score(positive, uncertainty), abs=1e-10
        )
        assert ranking.auprc(uncertainty, positive) == pytest.approx(
            sklearn.average_precision_score(positive, uncertainty), abs=1e-10
        )
    assert math.isnan(ranking.auroc(uncertainty, np.ones(400, dtype=bool)))
    assert math.isnan(ranking.auprc(uncertainty, np.zeros(400, dtype=bool)))


def test_sparsification_is_nothing_for_the_errors_themselves_and_half_of_what_there_is_for_chance() -> None:
    rng = np.random.default_rng(4)
    error = rng.normal(size=20000)
    assert ranking.ause(error, np.abs(error)) == 0.0
    # Without an order the error left is the mean; with the best one it falls: the mean of their difference is known.
    size = np.sort(np.abs(error))
    left = [size[: max(1, round(len(size) * (1 - k / 100)))].mean() for k in range(100)]
    chance = 1.0 - np.mean(left) / size.mean()
    assert ranking.ause(error, rng.normal(size=20000)) == pytest.approx(chance, abs=0.03)
    assert ranking.ause(error, -np.abs(error)) > chance
    assert ranking.ause(np.zeros(5), np.ones(5)) == 0.0


def test_the_worst_are_a_tenth() -> None:
    error = np.random.default_rng(5).normal(size=1000)
    marked = ranking.worst(error)
    assert marked.sum() == 100
    assert np.abs(error[marked]).min() > np.abs(error[~marked]).max()
