"""Scale and floor of a spread, by the largest likelihood of Student's t, which is robust to outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.contracts.evaluation import FloorModel

_FREEDOM = 4.0  # degrees of freedom: tails as heavy as those of real errors
_LOW, _HIGH = -20.0, 12.0  # bounds of the log-variances, relative to the data's own scale
_SMALLEST_ERROR = 1e-9  # eV/atom or eV/Angstrom: zero errors would give a zero floor
_PULL = 1.0  # towards powers of zero, in units of one independent group
_VARIED = 1.2  # smallest difference between the extreme tenths of sizes, or distances, that determines a power
_LARGEST_POWERS = 1.0, 3.0  # of the size: errors that only add up as those of a mean do; of the distance


@dataclass(frozen=True)
class _Terms:
    """Entries in units of the data: squares of errors, spreads, lengths [n], logarithms of sizes and distances [n]."""

    error: Array
    spread: Array
    length: Array
    size: Array
    distance: Array

    def likelihood(self, theta: Array, pull: float) -> tuple[float, Array]:
        """Return the mean negative log-likelihood, with the prior on powers, and its gradient.

        ``theta``: logarithms of the squares of scale, floor and relative error, and the powers of size and distance.
        """
        of_spread, floor, of_length = np.exp(theta[:3])
        own = floor * np.exp(2.0 * (theta[4] * self.distance - theta[3] * self.size))
        total = of_spread * self.spread + own + of_length * self.length
        ratio = self.error / total
        value = 0.5 * float(np.mean(np.log(total) + (_FREEDOM + 1.0) * np.log1p(ratio / _FREEDOM)))
        slope = 0.5 * (1.0 - (_FREEDOM + 1.0) * ratio / (_FREEDOM + ratio)) / total
        parts = (
            of_spread * self.spread,
            own,
            of_length * self.length,
            -2.0 * own * self.size,
            2.0 * own * self.distance,
        )
        gradient = np.array([float(np.mean(slope * part)) for part in parts])
        gradient[3:] += pull * theta[3:]
        return value + 0.5 * pull * float(theta[3:] @ theta[3:]), gradient


def fit_shape(error: Array, entries: Entries, groups: int) -> tuple[float, float, FloorModel]:
    """Return scale, floor and the floor's dependence, up to one factor of all deviations.

    Without spread (one member) the scale is 0. Powers of constant quantities are 0.

    Parameters
    ----------
    error
        Mean less label [n].
    entries
        The same entries.
    groups
        Number of independent groups among them; few groups determine no powers.
    """
    wider = 1.0 if entries.distance is None else np.maximum(1.0, entries.distance)
    errors = error / wider
    size, typical_size = _logarithms(entries.size)
    distance, typical_distance = _logarithms(None if entries.distance is None else np.minimum(1.0, entries.distance))
    length = entries.length
    # All values are divided by the data's own scale, so that one starting point suits eV and meV.
    unit = max(float(np.median(np.abs(errors))), 1e-3 * math.sqrt(float(np.mean(np.square(errors)))), _SMALLEST_ERROR)
    units = [_unit(entries.spread), 0.0 if length is None else _unit(length)]
    n = len(errors)
    none = np.zeros(n)
    terms = _Terms(
        np.square(errors / unit),
        np.square(entries.spread / units[0]) if units[0] else none,
        none if length is None or not units[1] else np.square(length / units[1]),
        none if size is None else size,
        none if distance is None else distance,
    )
    theta = _minimise(terms, [bool(one) for one in units], size is not None, distance is not None, _PULL / groups)
    scale, floor, relative = (
        0.0 if not of or x <= 0.9 * _LOW else math.sqrt(math.exp(x)) * unit / of
        for of, x in zip((units[0], 1.0, units[1]), theta[:3], strict=True)
    )
    nearest = typical_distance * math.exp(float(distance.min())) if distance is not None else 0.0
    return (
        scale,
        floor or unit * math.exp(0.45 * _LOW),
        FloorModel(
            relative=relative,
            size_power=float(theta[3]),
            typical_size=typical_size,
            distance_power=float(theta[4]),
            typical_distance=typical_distance,
            nearest=nearest,
        ),
    )


def _unit(values: Array) -> float:
    """Return a typical size of non-negative values; 0 if all are zero."""
    return float(np.median(values)) or math.sqrt(float(np.mean(np.square(values))))


def _logarithms(values: Array | None) -> tuple[Array | None, float]:
    """Return logarithms relative to the median, and the median; None for unknown or nearly constant values."""
    if values is None or not np.isfinite(values).all() or values.min() <= 0.0:
        return None, 1.0
    typical = float(np.median(values))
    low, high = np.quantile(values, (0.1, 0.9))
    return (np.log(values / typical), typical) if high > _VARIED * low else (None, typical)


def _minimise(terms: _Terms, there: list[bool], sized: bool, far: bool, pull: float) -> Array:
    fixed = (_LOW, _LOW)
    bounds = [
        (_LOW, _HIGH) if there[0] else fixed,
        (_LOW, _HIGH),
        (_LOW, _HIGH) if there[1] else fixed,
        (0.0, _LARGEST_POWERS[0] if sized else 0.0),
        (0.0, _LARGEST_POWERS[1] if far else 0.0),
    ]
    # Not convex: from each term's side, and between.
    starts = ((0.0, -4.0, -4.0), (-4.0, 0.0, -4.0), (-4.0, -4.0, 0.0), (-1.0, -1.0, -1.0))
    low, high = np.array(bounds).T
    runs = [
        minimize(
            terms.likelihood, np.clip([*start, 0.0, 0.0], low, high), args=(pull,), jac=True, method="L-BFGS-B",
            bounds=bounds,
        )
        for start in starts
    ]  # fmt: skip
    return np.asarray(min(runs, key=lambda run: float(run.fun)).x, dtype=np.float64)
