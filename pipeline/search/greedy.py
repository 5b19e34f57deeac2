"""Greedy selection of members by the ensemble's calibrated likelihood on stored validation errors.

Ensemble selection with replacement (Caruana, Niculescu-Mizil, Crew and Ksikes, ICML 2004): each round adds the
candidate with which the ensemble is best; a candidate that is added twice has twice the weight. The ensemble of the
best round wins, and its candidates are the members. A candidate with weight zero is not trained on.

The score is the negative log-likelihood of Student's t around the weighted mean (as of the calibration,
`gfm_pipeline.apps.calibrate.likelihood`), with the variance scale * ((1 - floor) * spread**2 + floor). Scale and floor
are fitted on one half of the groups (trajectories, parent cells) and judged on the other half, and the reverse. So an
ensemble gains nothing by a spread that does not tell its errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gfm_pipeline.search.selection import Best, EnsembleRank, ErrorSelection, Finalist, standing
from gfm_pipeline.search.stored_errors import StoredErrors

FLOORS = np.array([1.0, 0.7, 0.4, 0.2, 0.1, 0.04, 0.01])  # shares of the variance that does not depend on the spread
FREEDOM = 4.0  # degrees of freedom of Student's t
STEPS = 15  # of the fit of a scale, which converges fast
ROUNDS = 3  # per member
SMALLEST = 1e-18  # variance, relative to the data
DIGITS = 9  # of recorded likelihoods: sums differ beyond from one processor to another


@dataclass(frozen=True)
class _Quantity:
    """Errors of all candidates on one quantity [candidates, entries], and the half of each entry's group [entries]."""

    errors: np.ndarray
    half: np.ndarray


class Greedy(ErrorSelection):
    """Ensemble selection with replacement.

    Parameters
    ----------
    pool
        Number of candidates that are considered: those of the highest rungs with the best objectives.
    """

    def __init__(self, pool: int = 32) -> None:
        self.pool = pool

    def choose(self, finalists: Sequence[Finalist], members: int, max_per_algorithm: int) -> tuple[Finalist, ...]:
        """Choose as `Best`, for lack of stored errors."""
        return Best().choose(finalists, members, max_per_algorithm)

    def rank(
        self,
        finalists: Sequence[Finalist],
        members: int,
        max_per_algorithm: int,
        errors: Mapping[str, StoredErrors],
    ) -> EnsembleRank:
        """Return the members with their weights; see `ErrorSelection.rank`."""
        pool = [f for f in sorted(finalists, key=standing) if f.name in errors][: max(self.pool, members)]
        quantities = _quantities([errors[f.name] for f in pool])
        bag = _grown(quantities, pool, members, max_per_algorithm)
        final = likelihood(quantities, _weights(bag, len(pool)))
        left_out = {}
        for place, finalist in enumerate(pool):
            if place not in bag:
                more = likelihood(quantities, _weights(bag + Counter([place]), len(pool)))
                left_out[finalist.name] = (
                    f"its weight in the ensemble is zero: with it, the negative log-likelihood is {more:.4f} instead "
                    f"of {final:.4f}"
                )
        total = sum(bag.values())
        weights = {pool[place].name: bag[place] / total for place in sorted(bag)}
        return EnsembleRank(weights, round(final, DIGITS), left_out)


def _quantities(models: Sequence[StoredErrors]) -> list[_Quantity]:
    found = []
    for name, first in models[0].errors.items():
        groups = models[0].groups[name]
        # alternate groups, so that both halves have small and large ones
        of_group = {int(group): place % 2 for place, group in enumerate(np.unique(groups))}
        half = np.array([of_group[int(group)] for group in groups])
        if len(of_group) < 2:
            half = np.arange(len(groups)) % 2
        stacked = np.stack([model.errors[name].reshape(-1) for model in models])
        found.append(_Quantity(stacked, np.repeat(half, first.shape[1])))
    return found


def _weights(bag: Counter[int], size: int) -> np.ndarray:
    weights = np.zeros(size)
    for place, count in bag.items():
        weights[place] = count
    return np.asarray(weights / weights.sum())


def _grown(quantities: Sequence[_Quantity], pool: Sequence[Finalist], members: int, cap: int) -> Counter[int]:
    """Return how often the best ensemble has each candidate."""
    bag: Counter[int] = Counter()
    best, best_score = Counter[int](), np.inf
    needed = min(2, members, len(pool))  # an ensemble of one has no spread
    for _ in range(ROUNDS * members):
        of_algorithm = Counter(pool[place].algorithm for place in bag)
        free = [
            place
            for place, finalist in enumerate(pool)
            if place in bag or (len(bag) < members and of_algorithm[finalist.algorithm] < cap)
        ]
        if len(bag) < needed and len(free) > len(bag):
            free = [place for place in free if place not in bag]
        scores = [likelihood(quantities, _weights(bag + Counter([place]), len(pool))) for place in free]
        place = free[int(np.argmin(scores))]
        bag[place] += 1
        if len(bag) >= needed and min(scores) < best_score:
            best, best_score = bag.copy(), min(scores)
    return best or bag


def likelihood(quantities: Sequence[_Quantity], weights: np.ndarray) -> float:
    """Return the mean negative log-likelihood of an ensemble over quantities, cross-fitted on two halves."""
    used = np.flatnonzero(weights)
    share = weights[used]
    effective = 1.0 - float(share @ share)
    values = []
    for quantity in quantities:
        errors = quantity.errors[used]
        mean = share @ errors
        spread = share @ (errors - mean) ** 2
        spread = spread / effective if effective > 0.0 else spread
        values.append(_cross_fitted(mean, spread, quantity.half))
    return float(np.mean(values))


def _cross_fitted(mean: np.ndarray, spread: np.ndarray, half: np.ndarray) -> float:
    unit = float(np.mean(mean**2)) or 1.0
    typical = float(np.mean(spread))
    relative = spread / typical if typical > SMALLEST * unit else np.ones_like(spread)
    floors = FLOORS if typical > SMALLEST * unit else FLOORS[:1]
    shape = (1.0 - floors[:, None]) * relative + floors[:, None]
    square = np.maximum(mean**2, SMALLEST * unit)
    total = 0.0
    for fitted in (0, 1):
        mine, other = half == fitted, half != fitted
        scale = fitted_scales(square[mine], shape[:, mine])
        chosen = int(np.argmin(negative_log(square[mine], scale[:, None] * shape[:, mine]).mean(axis=1)))
        total += float(negative_log(square[other], scale[chosen] * shape[chosen, other]).sum())
    return total / len(mean)


def fitted_scales(square: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Return the scale of the largest likelihood for each shape of the variance, by expectation and maximisation."""
    scale = (square / shape).mean(axis=1)
    for _ in range(STEPS):
        weight = (FREEDOM + 1.0) / (FREEDOM + square / (scale[:, None] * shape))
        scale = (weight * square / shape).mean(axis=1)
    return np.asarray(scale)


def negative_log(square: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of Student's t without its constant, per entry."""
    return np.asarray(0.5 * np.log(variance) + 0.5 * (FREEDOM + 1.0) * np.log1p(square / (FREEDOM * variance)))
