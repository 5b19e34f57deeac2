"""Fit on validation, judge on test: the report and the figure data of one quantity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfm_pipeline.apps.calibrate import metrics
from gfm_pipeline.apps.calibrate.aggregate import TargetPredictions
from gfm_pipeline.apps.calibrate.calibrators import Calibration, fit_calibration
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.contracts.evaluation import QuantityReport

FIGURE_POINTS = 3000


UNLABELLED = QuantityReport(
    mae=0.0,
    rmse=0.0,
    null_mae=0.0,
    best_member_mae=0.0,
    coverage_raw=0.0,
    coverage_calibrated=0.0,
    interval_halfwidth=0.0,
    rank_correlation=0.0,
    nll_raw=0.0,
    nll_calibrated=0.0,
    miscalibration_raw=0.0,
    miscalibration_calibrated=0.0,
    scale=0.0,
    floor=0.0,
    quantile=0.0,
    n=0,
    guaranteed=False,
)


@dataclass(frozen=True)
class QuantityEvaluation:
    """Calibration, its judgement on the test split, and arrays to draw.

    ``figure`` holds ``label``, ``mean``, ``spread`` and ``deviation`` (calibrated), each [at most 3000] drawn at random
    from the test split, and ``curve_expected``, ``curve_raw``, ``curve_calibrated`` [101] over all of it.
    """

    calibration: Calibration
    report: QuantityReport
    figure: dict[str, Array]


def judge(test: TargetPredictions, calibration: Calibration, null_mae: float) -> QuantityReport:
    """Return every metric of the test split before and after ``calibration``."""
    error, raw, deviation = test.error, test.spread, calibration.deviation(test.spread)
    halfwidth = calibration.halfwidth(test.spread)
    return QuantityReport(
        mae=metrics.mae(error),
        rmse=metrics.rmse(error),
        null_mae=null_mae,
        best_member_mae=min(metrics.mae(member - test.label) for member in test.members),
        coverage_raw=metrics.coverage(error, metrics.normal_factor(calibration.level) * raw),
        coverage_calibrated=metrics.coverage(error, halfwidth),
        interval_halfwidth=float(np.mean(halfwidth)),
        rank_correlation=metrics.spearman(raw, np.abs(error)),
        nll_raw=metrics.gaussian_nll(error, raw),
        nll_calibrated=metrics.gaussian_nll(error, deviation),
        miscalibration_raw=metrics.miscalibration_area(error, raw),
        miscalibration_calibrated=metrics.miscalibration_area(error, deviation),
        scale=calibration.scale,
        floor=calibration.floor,
        quantile=calibration.quantile,
        n=len(error),
        coverage_error=metrics.coverage_error(error, halfwidth, test.cluster),
        ence_raw=metrics.ence(error, raw),
        ence_calibrated=metrics.ence(error, deviation),
        crps_raw=metrics.gaussian_crps(error, raw),
        crps_calibrated=metrics.gaussian_crps(error, deviation),
        guaranteed=calibration.guaranteed,
    )


def figure_data(test: TargetPredictions, calibration: Calibration, seed: int) -> dict[str, Array]:
    """Return what parity, spread and calibration figures need, at most `FIGURE_POINTS` entries."""
    n = len(test.label)
    chosen = np.arange(n)
    if n > FIGURE_POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(n, FIGURE_POINTS, replace=False))
    deviation = calibration.deviation(test.spread)
    expected, raw = metrics.calibration_curve(test.error, test.spread)
    return {
        "label": test.label[chosen],
        "mean": test.mean[chosen],
        "spread": test.spread[chosen],
        "deviation": deviation[chosen],
        "curve_expected": expected,
        "curve_raw": raw,
        "curve_calibrated": metrics.calibration_curve(test.error, deviation)[1],
    }


def unlabelled(level: float) -> QuantityEvaluation:
    """Return what is found of a target without labels."""
    return QuantityEvaluation(Calibration(0.0, 0.0, 0.0, level, 0, False), UNLABELLED, {})


def evaluate(
    validation: TargetPredictions, test: TargetPredictions, level: float, null_mae: float, seed: int
) -> QuantityEvaluation:
    """Fit on ``validation``, judge on ``test``; without labels in either, ``n`` is 0 and there is no figure."""
    if not len(validation.label) or not len(test.label):
        return unlabelled(level)
    calibration = fit_calibration(validation.error, validation.spread, level)
    return QuantityEvaluation(calibration, judge(test, calibration, null_mae), figure_data(test, calibration, seed))
