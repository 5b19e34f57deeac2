"""Quality of predictions and their spreads: errors, scores and calibration, in numpy alone.

Every function takes one-dimensional float arrays of equal length: ``error`` = prediction - label,
``spread`` = the predictive standard deviation of the same entry, in the same unit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

Array = NDArray[np.float64]

#: Spreads below this (eV/atom or eV/Angstrom) count as this: no score of a zero spread is finite.
SMALLEST_SPREAD = 1e-6


def mae(error: Array) -> float:
    """Return the mean absolute error."""
    return float(np.mean(np.abs(error)))


def rmse(error: Array) -> float:
    """Return the root of the mean squared error."""
    return math.sqrt(float(np.mean(np.square(error))))


def gaussian_nll(error: Array, spread: Array) -> float:
    """Return the mean negative log-likelihood of a normal predictive density, in nats."""
    s = np.maximum(spread, SMALLEST_SPREAD)
    return float(np.mean(0.5 * np.log(2.0 * np.pi * s * s) + 0.5 * np.square(error / s)))


def gaussian_crps(error: Array, spread: Array) -> float:
    """Return the mean continuous ranked probability score of a normal predictive density.

    Closed form of Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), eq. 21; same unit as ``error``.
    """
    s = np.maximum(spread, SMALLEST_SPREAD)
    z = error / s
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return float(np.mean(s * (z * (2.0 * ndtr(z) - 1.0) + 2.0 * density - 1.0 / math.sqrt(math.pi))))


def normal_factor(level: float) -> float:
    """Return z so that a normal variable lies within +-z standard deviations with probability ``level``."""
    return float(ndtri(0.5 * (1.0 + level)))


def coverage(error: Array, halfwidth: Array) -> float:
    """Return the share of labels inside prediction +- ``halfwidth``."""
    return float(np.mean(np.abs(error) <= halfwidth))


def coverage_error(error: Array, halfwidth: Array, cluster: NDArray[np.int64]) -> float:
    """Return the standard error of `coverage` when entries of one cluster are dependent.

    Cluster-robust ("sandwich") error of a mean, Liang and Zeger, Biometrika 73, 13 (1986): entries of a cluster (a
    trajectory, a parent cell) may depend on each other in any way, clusters do not. It is at least 1 / (clusters + 2),
    the expected share outside when all are inside (Laplace). A single cluster has no information about the spread
    between clusters; its error is 0.5, the largest error of a share.
    """
    inside = (np.abs(error) <= halfwidth).astype(np.float64)
    found = mean_error(inside, cluster)
    return 0.5 if found is None else max(found, 1.0 / (len(np.unique(cluster)) + 2.0))


def mean_error(values: Array, cluster: NDArray[np.int64]) -> float | None:
    """Return the cluster-robust standard error of the mean of ``values`` (see `coverage_error`); None: one cluster."""
    names, index = np.unique(cluster, return_inverse=True)
    if len(names) < 2:
        return None
    sums = np.bincount(index, weights=values - values.mean(), minlength=len(names))
    return math.sqrt(len(names) / (len(names) - 1.0) * float(np.sum(sums * sums))) / len(values)


def calibration_curve(error: Array, spread: Array, points: int = 101) -> tuple[Array, Array]:
    """Return expected and observed coverage of centred normal intervals.

    Returns
    -------
    expected, observed
        [points] each; ``expected`` runs from 0 to 1, and equals ``observed`` when spreads are right
        (Kuleshov, Fenner and Ermon, ICML 2018, in the centred-interval form of Chung et al., 2021).
    """
    expected = np.linspace(0.0, 1.0, points)
    # |z| <= ndtri((1 + p) / 2) if and only if 2 ndtr(|z|) - 1 <= p: one sort answers every level.
    score = np.sort(2.0 * ndtr(np.abs(error) / np.maximum(spread, SMALLEST_SPREAD)) - 1.0)
    return expected, np.searchsorted(score, expected, side="right") / len(score)


def miscalibration_area(error: Array, spread: Array, points: int = 101) -> float:
    """Return the area between `calibration_curve` and the diagonal: 0 is best, 0.5 is worst.

    It uses centred intervals, like uncertainty-toolbox; with one-sided quantiles the number is about half.
    """
    expected, observed = calibration_curve(error, spread, points)
    gap = observed - expected
    left, right = gap[:-1], gap[1:]
    both = np.abs(left) + np.abs(right)
    # Where the curve crosses the diagonal there are two triangles, which are less than the trapezoid of the lengths.
    crossing = left * right < 0.0
    triangles = (np.square(left) + np.square(right)) / np.where(crossing, both, 1.0)
    return float(0.5 * np.sum(np.where(crossing, triangles, both) * np.diff(expected)))


def calibration_error(error: Array, spread: Array, points: int = 101) -> float:
    """Return the root mean square distance of `calibration_curve` from the diagonal: 0 is best."""
    expected, observed = calibration_curve(error, spread, points)
    return rmse(observed - expected)


def sharpness(spread: Array) -> float:
    """Return the root mean predicted variance; of two equally calibrated predictions, the smaller is better."""
    return rmse(np.maximum(spread, SMALLEST_SPREAD))


def ence(error: Array, spread: Array, bins: int = 20) -> float:
    """Return the expected normalised calibration error over bins of equal count, ordered by spread.

    Mean over bins of abs(RMV - RMSE) / RMV, with the root mean predicted variance RMV and the observed error RMSE (Levi
    et al., Sensors 22, 5540 (2022), eq. 8). 0 is best. There are fewer bins if a bin would have fewer than 10 entries.
    """
    s = np.maximum(spread, SMALLEST_SPREAD)
    order = np.argsort(s, kind="stable")
    total = 0.0
    parts = np.array_split(order, max(1, min(bins, len(order) // 10)))
    for part in parts:
        stated = math.sqrt(float(np.mean(np.square(s[part]))))
        total += abs(stated - rmse(error[part])) / stated
    return total / len(parts)


def spearman(a: Array, b: Array) -> float:
    """Return Spearman's rank correlation; 0.0 when either side is constant or there are fewer than two entries."""
    if len(a) < 2:
        return 0.0
    x, y = rankdata(a) - 0.5 * (len(a) + 1), rankdata(b) - 0.5 * (len(b) + 1)
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0.0 else 0.0
