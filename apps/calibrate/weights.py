"""One weight per member and dataset: a convex combination that a weak member cannot spoil.

Stacking (Breiman, Machine Learning 24, 49 (1996); van der Laan, Polley and Hubbard, Stat. Appl. Genet. Mol. Biol. 6,
25 (2007)) with weights that are not negative and sum to one. The same weights hold for all targets, so that the
ensemble's forces stay minus the gradient of its energy. They minimise, on the validation split,

    mean over quantities of h(weighted error) + strength / G * (K * sum(w**2) - 1),

where h is the mean pseudo-Huber loss in units of the plain mean's absolute error on that quantity. It is close to the
reported absolute error. With squares, a few strained structures, whose force errors are a hundred times larger than
usual, would decide the weights. The second term pulls towards equal weights; it weakens with the number G of
independent groups (trajectories, parent cells). `effective_members` never falls below the root of K, so one lucky
member cannot become the whole ensemble, and the ensemble keeps a spread.

The fit of the K - 1 numbers uses the same split as the calibration. This makes errors there slightly too small, like
the selection of members on it. The test split, which no fit uses, serves for evaluation.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from scipy.optimize import minimize

from gfm_pipeline.apps.calibrate.aggregate import SplitPredictions
from gfm_pipeline.apps.calibrate.metrics import Array, mae

#: Pull towards equal weights, in units of one group. Chosen by fits on 5 to 65 groups of the validation splits of two
#: datasets, judged on the other groups, 40 draws each, and checked so on a second campaign: 1 is better than equal
#: weights on average at every size, and at worst 5 % worse with 5 groups and 1 % with 10 (0: 18 % and 3 %).
STRENGTH = 1.0

_ELBOW = 0.2  # transition of the loss from square to absolute, in units of the plain mean's absolute error
_NEGLIGIBLE = 0.01  # of an equal share: a member with less is not worth computing
_EQUAL = 1e-6  # weights this close to equal ones are equal
_CANCELLED = 1e-3  # of the members' own error: smallest unit, in case the mean is right by chance


def effective_members(weights: Array) -> float:
    """Return 1 / sum(weights**2): K for K equal weights, 1 for a single one (Kish, 1965)."""
    return float(1.0 / (weights @ weights))


def fit_weights(validation: SplitPredictions, strength: float = STRENGTH) -> Array:
    """Return the weight of each member [K]: not negative, sum 1, exactly equal unless the data favour others.

    Parameters
    ----------
    validation
        Predictions of the validation split; quantities without labels are left out.
    strength
        Pull towards equal weights, in units of one group.
    """
    quantities = tuple(validation.targets.values())
    k = len(quantities[0].members)
    groups = max((len(np.unique(q.cluster)) for q in quantities), default=0)
    units = [_in_units(q.members - q.label) for q in quantities if len(q.label)]
    errors = [found for found in units if found is not None]
    if k == 1 or not errors:
        return np.full(k, 1.0 / k)
    return _minimise(errors, strength / groups)


def _in_units(error: Array) -> Array | None:
    """Return the errors of members [K, n] in units of the error of their plain mean; None without errors."""
    members = float(np.mean(np.abs(error)))
    unit = max(mae(error.mean(axis=0)), _CANCELLED * members)
    return error / unit if unit > 0.0 else None


def _minimise(errors: list[Array], pull: float) -> Array:
    k = len(errors[0])
    equal = np.full(k, 1.0 / k)

    def objective(weights: Array) -> tuple[float, Array]:
        value = pull * (k * float(weights @ weights) - 1.0)
        slope = 2.0 * pull * k * weights
        for error in errors:
            left = weights @ error
            root = np.hypot(left, _ELBOW)
            value += (float(np.mean(root)) - _ELBOW) / len(errors)
            slope = slope + error @ (left / root) / (left.size * len(errors))
        return value, slope

    # A little inside the bound, so that dropping negligible shares cannot violate it.
    largest = (1.0 - 2.0 * _NEGLIGIBLE) / math.sqrt(k)
    constraints: Any = (  # dicts of functions without a precise type
        {"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda _: np.ones(k)},
        {"type": "ineq", "fun": lambda w: largest - w @ w, "jac": lambda w: -2.0 * w},
    )
    with warnings.catch_warnings():
        # Some releases of scipy warn when a step leaves the bounds by a rounding error, and clip it themselves.
        warnings.filterwarnings("ignore", message="Values in x were outside bounds", category=RuntimeWarning)
        # The problem is convex, and equal weights are inside the constraints: one start is enough.
        run = minimize(
            objective, equal, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * k, constraints=constraints,
            options={"maxiter": 500, "ftol": 1e-10},
        )  # fmt: skip
    found = np.where(run.x < _NEGLIGIBLE / k, 0.0, run.x)
    found = np.asarray(found / found.sum(), dtype=np.float64)
    better = bool(np.isfinite(found).all()) and objective(found)[0] < objective(equal)[0]
    return found if better and np.abs(found - equal).max() > _EQUAL else equal
