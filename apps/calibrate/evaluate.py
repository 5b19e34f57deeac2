"""Fit on validation, evaluate on test: the report and the figure data of one quantity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gfm_pipeline.apps.calibrate import metrics, ranking
from gfm_pipeline.apps.calibrate.aggregate import TargetPredictions
from gfm_pipeline.apps.calibrate.calibrators import deviation, fit_calibration, halfwidth
from gfm_pipeline.apps.calibrate.groups import group_coverages
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.contracts.evaluation import QuantityCalibration, QuantityReport

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
    """Calibration, its evaluation on the test split, and arrays for figures.

    ``figure`` holds ``label``, ``mean``, ``spread`` and ``deviation`` (calibrated), each [at most 3000] drawn at random
    from the test split, and ``curve_expected``, ``curve_raw``, ``curve_calibrated`` [101] over all of it.
    """

    calibration: QuantityCalibration
    report: QuantityReport
    figure: dict[str, Array]


def judge(test: TargetPredictions, calibration: QuantityCalibration, null_mae: float) -> QuantityReport:
    """Return every metric of the test split before and after ``calibration``."""
    error, raw, entries = test.error, test.spread, test.entries
    stated, bound = deviation(calibration, entries), halfwidth(calibration, entries)
    worst = ranking.worst(error)
    best = min((member - test.label for member in test.members), key=metrics.mae)
    return QuantityReport(
        mae=metrics.mae(error),
        rmse=metrics.rmse(error),
        null_mae=null_mae,
        best_member_mae=metrics.mae(best),
        coverage_raw=metrics.coverage(error, metrics.normal_factor(calibration.level) * raw),
        coverage_calibrated=metrics.coverage(error, bound),
        interval_halfwidth=float(np.mean(bound)),
        rank_correlation=metrics.spearman(raw, np.abs(error)),
        nll_raw=metrics.gaussian_nll(error, raw),
        nll_calibrated=metrics.gaussian_nll(error, stated),
        miscalibration_raw=metrics.miscalibration_area(error, raw),
        miscalibration_calibrated=metrics.miscalibration_area(error, stated),
        scale=calibration.scale,
        floor=calibration.floor,
        quantile=calibration.quantile,
        n=len(error),
        coverage_error=metrics.coverage_error(error, bound, test.cluster),
        ence_raw=metrics.ence(error, raw),
        ence_calibrated=metrics.ence(error, stated),
        crps_raw=metrics.gaussian_crps(error, raw),
        crps_calibrated=metrics.gaussian_crps(error, stated),
        guaranteed=calibration.guaranteed,
        calibration_error=metrics.calibration_error(error, stated),
        sharpness=metrics.sharpness(stated),
        auroc_worst=_finite(ranking.auroc(stated, worst)),
        auprc_worst=_finite(ranking.auprc(stated, worst)),
        ause=ranking.ause(error, stated),
        groups=group_coverages(error, bound, test),
        excess_error=metrics.mean_error(np.abs(error) - np.abs(best), test.cluster),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def figure_data(test: TargetPredictions, calibration: QuantityCalibration, seed: int) -> dict[str, Array]:
    """Return the data of parity, spread and calibration figures, at most `FIGURE_POINTS` entries."""
    n = len(test.label)
    chosen = np.arange(n)
    if n > FIGURE_POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(n, FIGURE_POINTS, replace=False))
    stated = deviation(calibration, test.entries)
    expected, raw = metrics.calibration_curve(test.error, test.spread)
    return {
        "label": test.label[chosen],
        "mean": test.mean[chosen],
        "spread": test.spread[chosen],
        "deviation": stated[chosen],
        "curve_expected": expected,
        "curve_raw": raw,
        "curve_calibrated": metrics.calibration_curve(test.error, stated)[1],
    }


def unlabelled(level: float) -> QuantityEvaluation:
    """Return the evaluation of a target without labels."""
    return QuantityEvaluation(QuantityCalibration(0.0, 0.0, 0.0, level, 0, False), UNLABELLED, {})


def evaluate(
    validation: TargetPredictions,
    test: TargetPredictions,
    level: float,
    null_mae: float,
    seed: int,
    training: TargetPredictions | None = None,
) -> QuantityEvaluation:
    """Fit on ``validation``, with ``training`` structures as a bound from below, and evaluate on ``test``.

    If validation or test lacks labels, ``n`` is 0 and there is no figure.
    """
    if not len(validation.label) or not len(test.label):
        return unlabelled(level)
    known = None if training is None else (training.error, training.entries)
    calibration = fit_calibration(validation.error, validation.entries, level, validation.cluster, known)
    return QuantityEvaluation(calibration, judge(test, calibration, null_mae), figure_data(test, calibration, seed))
