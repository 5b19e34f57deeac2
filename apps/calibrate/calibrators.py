"""From the spread of an ensemble to intervals that hold: scale and floor, then a conformal factor.

Raw ensembles are over-confident, so their spread is corrected in two steps, for each dataset and each
quantity on its own (a Mondrian taxonomy: Vovk, Gammerman and Shafer, 2005, section 4.5):

1. s = sqrt((scale * spread)**2 + floor**2), by the smallest Gaussian negative log-likelihood
   (after Busk et al., Phys. Chem. Chem. Phys. 25, 25828 (2023)). The floor is the error all members share.
2. q, the normalised split-conformal quantile of abs(error) / s with the finite-sample correction (Vovk et al., 2005;
   Angelopoulos and Bates, 2021, section 2.3.2). The interval is mean +- q * s.

What is promised, and what is not. Step 2 covers at least ``level`` when the entries it was fitted on and
the new one are exchangeable. The force components of one structure are correlated, and so are the
structures of one trajectory; the number of independent entries is therefore smaller than the count, and the
coverage found on another split scatters more than a binomial count would (`metrics.coverage_error` has the
honest width). Splits must not share a trajectory. The validation split on which we fit is also the one on which
members stopped and were selected, which makes errors there slightly too small; only the test split, which nothing
has seen, judges. No promise holds for structures unlike those of the dataset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.errors import DataError

_LOW, _HIGH = -20.0, 12.0  # bounds of the log-variances, relative to the data's own scale
_SMALLEST_ERROR = 1e-9  # eV/atom or eV/Angstrom: errors of zero would make a floor of zero


@dataclass(frozen=True)
class Calibration:
    """The correction of one quantity of one dataset.

    Attributes
    ----------
    scale, floor
        Calibrated deviation s = sqrt((scale * spread)**2 + floor**2); floor in the quantity's unit.
    quantile, level
        mean +- quantile * s is to cover with probability ``level``.
    n
        Validation entries it was fitted on.
    guaranteed
        False when ``n`` is too small for ``level``: the largest score stands in for the quantile.
    """

    scale: float
    floor: float
    quantile: float
    level: float
    n: int
    guaranteed: bool = True

    def deviation(self, spread: Array) -> Array:
        """Return the calibrated standard deviation of each entry, same shape and unit as ``spread``."""
        return np.hypot(self.scale * spread, self.floor)

    def halfwidth(self, spread: Array) -> Array:
        """Return the calibrated half-width of each entry's interval."""
        return self.quantile * self.deviation(spread)


def fit_scale_floor(error: Array, spread: Array) -> tuple[float, float]:
    """Return (scale, floor) of the smallest Gaussian negative log-likelihood; neither is negative.

    Without any spread (one member) the scale is 0 and the floor the root mean square error, the exact minimum.
    """
    # Everything is divided by the data's own scale, so that one start suits eV and meV alike.
    unit = max(float(np.mean(np.square(error))), _SMALLEST_ERROR**2)
    variance = float(np.mean(np.square(spread)))
    if variance <= 0.0:
        return 0.0, math.sqrt(unit)
    e2, v = np.square(error) / unit, np.square(spread) / variance

    def objective(theta: Array) -> tuple[float, Array]:
        part = np.exp(theta)
        total = part[0] * v + part[1]
        slope = 0.5 * (1.0 - e2 / total) / total
        value = 0.5 * float(np.mean(np.log(total) + e2 / total))
        return value, np.array([part[0] * float(np.mean(slope * v)), part[1] * float(np.mean(slope))])

    # Not convex: from the spread's side, the floor's side and between.
    starts = (np.array([0.0, -4.0]), np.array([-4.0, 0.0]), np.array([-0.7, -0.7]))
    runs = [minimize(objective, x, jac=True, method="L-BFGS-B", bounds=[(_LOW, _HIGH)] * 2) for x in starts]
    best = min(runs, key=lambda run: float(run.fun)).x
    scale = 0.0 if best[0] <= 0.9 * _LOW else math.sqrt(math.exp(best[0]) * unit / variance)
    return scale, math.sqrt(math.exp(best[1]) * unit)


def conformal_quantile(score: Array, level: float) -> float:
    """Return the ceil((n + 1) level)-th smallest of n scores; infinite when n is too small for ``level``.

    A new score, exchangeable with these, is at most that with probability ``level`` or more, for every n.
    """
    # Rounding first: 0.9 * 10 is 9.000000000000002 for some levels, and ceil would take 10.
    rank = math.ceil(round((len(score) + 1) * level, 9))
    if rank > len(score):
        return math.inf
    return float(np.partition(score, rank - 1)[rank - 1])


def fit_calibration(error: Array, spread: Array, level: float) -> Calibration:
    """Fit both steps on validation entries.

    Raises
    ------
    DataError
        When there is no entry, or one is not finite.
    """
    if len(error) == 0:
        raise DataError("The validation split has no label to calibrate on.", "Give it a larger share in `ingest`.")
    if not (np.isfinite(error).all() and np.isfinite(spread).all()):
        raise DataError("Validation predictions or labels are not finite, so the spread cannot be calibrated.")
    scale, floor = fit_scale_floor(error, spread)
    score = np.abs(error) / np.hypot(scale * spread, floor)
    quantile = conformal_quantile(score, level)
    guaranteed = math.isfinite(quantile)
    return Calibration(scale, floor, quantile if guaranteed else float(score.max()), level, len(error), guaranteed)
