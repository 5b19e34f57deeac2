"""Intervals of energy differences between two structures of proportional compositions.

Errors that all structures of a composition share cancel in a difference, so its interval is not the sum of two
intervals. It is calibrated on pairs of validation structures of proportional compositions (elements 4 to 2 and 2 to 1,
say): the difference is E1 - N1/N2 E2, and per atom of the first its error is the difference of the errors per atom. The
distance between the two structures, in the mean features of their atoms, replaces the distance to the training data:
nearly equal structures have nearly equal errors. A vacancy, N - 1 atoms against N, is such a pair.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import SplitPredictions, TargetPredictions, mean_and_spread
from gfm_pipeline.apps.calibrate.calibrators import fit_calibration, halfwidth
from gfm_pipeline.apps.calibrate.domain import threshold
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.apps.calibrate.metrics import Array, coverage, mae
from gfm_pipeline.core.contracts.evaluation import DifferenceCalibration, DifferenceReport, QuantityCalibration
from gfm_pipeline.core.contracts.targets import ENERGY

FEWEST = 40  # smallest number of pairs for a calibration
_ROUNDS = 8  # largest number of pairs per structure
_MOST = 8000  # pairs
Indices = NDArray[np.int64]


def composition(numbers: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Return the elements of a structure and their numbers of atoms, divided by the greatest common divisor."""
    elements, counts = np.unique(numbers, return_counts=True)
    counts = counts // np.gcd.reduce(counts)
    return tuple((int(element), int(count)) for element, count in zip(elements, counts, strict=True))


def pairs(kinds: Indices, seed: int = 0) -> tuple[Indices, Indices]:
    """Return the first and second structures of random pairs of equal kind, from the kind of each structure [n]."""
    rng = np.random.default_rng(seed)
    first, second = [], []
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        for _ in range(_ROUNDS if len(own) > 2 else 1):
            order = rng.permutation(own)
            half = len(order) // 2
            first.append(order[:half])
            second.append(order[half : 2 * half])
    chosen = rng.permutation(sum(len(part) for part in first))[:_MOST] if first else np.zeros(0, dtype=np.int64)
    return tuple(np.concatenate(side)[chosen] if first else chosen for side in (first, second))  # type: ignore[return-value]


def fit_difference(
    validation: SplitPredictions,
    test: SplitPredictions,
    weights: Array,
    level: float,
    training: SplitPredictions | None = None,
) -> tuple[DifferenceCalibration, DifferenceReport] | None:
    """Return the calibration of differences from validation, and its test results; None with too few pairs.

    Pairs of ``training`` structures, if known, bound the quantile from below, see `fit_calibration`.
    """
    here = _differences(validation, weights)
    if here is None or len(here[0]) < FEWEST:
        return None
    error, entries, cluster = here
    limit = 1.0 if entries.distance is None else threshold(entries.distance)
    if limit <= 0.0:
        return None
    learned = None if training is None else _differences(training, weights)
    known = None if learned is None else (learned[0], _relative(learned[1], limit))
    found = fit_calibration(error, _relative(entries, limit), level, cluster, known)
    calibration = DifferenceCalibration(found, limit)
    return calibration, judge_difference(calibration, test, weights)


def judge_difference(calibration: DifferenceCalibration, test: SplitPredictions, weights: Array) -> DifferenceReport:
    """Return the results of a calibration of differences on ``test``; without pairs ``n`` is 0."""
    found = _differences(test, weights)
    if found is None or not len(found[0]):
        return DifferenceReport(0, 0.0, 0.0, 0.0)
    bound = halfwidth(calibration.energy, _relative(found[1], calibration.separation))
    return DifferenceReport(len(bound), mae(found[0]), coverage(found[0], bound), float(np.mean(bound)))


def difference_interval(
    calibration: DifferenceCalibration, spread: float, mean: float, size: int, apart: float | None, outside: float
) -> float:
    """Return the half-width of E1 - N1/N2 E2, eV, of a first structure of ``size`` atoms.

    Parameters
    ----------
    calibration
        Result of `fit_difference`.
    spread, mean
        Of the members' differences, eV per atom of the first structure.
    size
        Its atoms.
    apart
        Distance between the two structures, see `separation`; None: not known.
    outside
        Distance of the farther one to the training data, in units of the threshold: beyond 1 the interval is wider.
    """
    distance = None if apart is None else np.array([max(apart / calibration.separation, outside if outside > 1 else 0)])
    entries = Entries(np.array([spread]), np.array([mean]), np.array([float(size)]), distance)
    quantity: QuantityCalibration = calibration.energy
    return float(size * halfwidth(quantity, entries)[0])


def separation(pooled: tuple[Array, ...], weights: Array, first: Indices, second: Indices) -> Array:
    """Return the distance of pairs, from the mean features [G, H] of structures for each of K members."""
    return np.asarray(
        sum(w * np.linalg.norm(x[first] - x[second], axis=1) for w, x in zip(weights, pooled, strict=True)),
        dtype=np.float64,
    )


def _differences(split: SplitPredictions, weights: Array) -> tuple[Array, Entries, Indices] | None:
    """Return errors, entries (with separations as distances) and clusters of pairs; None without pairs."""
    energy: TargetPredictions | None = split.targets.get(ENERGY.name)
    if energy is None or split.numbers is None or energy.size is None or not len(energy.label):
        return None
    starts = np.cumsum(split.natoms)[:-1]
    known = {kind: k for k, kind in enumerate(dict.fromkeys(map(composition, np.split(split.numbers, starts))))}
    kinds = np.array([known[composition(part)] for part in np.split(split.numbers, starts)])[energy.place]
    first, second = pairs(kinds)
    if not len(first):
        return None
    mean, spread = mean_and_spread(energy.members[:, first] - energy.members[:, second], weights)
    apart = None
    if split.pooled is not None:
        apart = separation(split.pooled, weights, energy.place[first], energy.place[second])
    entries = Entries(spread, mean, energy.size[first], apart)
    return mean - (energy.label[first] - energy.label[second]), entries, energy.cluster[first]


def _relative(entries: Entries, limit: float) -> Entries:
    distance = None if entries.distance is None else entries.distance / limit
    return Entries(entries.spread, entries.mean, entries.size, distance)
