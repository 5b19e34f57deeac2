"""Selects structures to label from a pool: uncertain ones that differ from each other and from known ones.

The first choice is the most uncertain structure. Each further choice has the largest product of its uncertainty and its
distance, in features of the model, to the nearest chosen or known structure. This is greedy k-center selection (after
Sener and Savarese, ICLR (2018)) weighted by uncertainty, which avoids repeated choices of copies of the most uncertain
structure. It is deterministic, takes O(P n) time for n of P structures and stores their features only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CONSTANT = 1e-9  # of the largest standard deviation: features that vary less are ignored
_PART = 256  # known structures compared at a time


@dataclass(frozen=True)
class ChosenStructures:
    """Indices in the pool in the order of choice, and the distance of each from the structures known then."""

    places: NDArray[np.int64]
    distances: Floats


def choose(uncertainty: Floats, features: Floats, n: int, known: Floats | None = None) -> ChosenStructures:
    """Choose at most ``n`` structures; fewer when the others are all equal to chosen ones.

    Parameters
    ----------
    uncertainty
        Of each structure of the pool [P], not negative.
    features
        Of each structure [P, H].
    n
        Number of structures.
    known
        Features of labelled structures [T, H].

    Raises
    ------
    ValueError
        When lengths differ, or a number is not finite or an uncertainty is negative.
    """
    if len(uncertainty) != len(features):
        raise ValueError(f"{len(uncertainty)} uncertainties of {len(features)} structures")
    if not np.isfinite(features).all() or not np.isfinite(uncertainty).all() or (uncertainty < 0).any():
        raise ValueError("features must be finite, and uncertainties finite and not negative")
    if not len(features):
        return ChosenStructures(np.zeros(0, np.int64), np.zeros(0))
    pool, others = _scaled(features, known)
    nearest = np.full(len(pool), np.inf)
    for first in range(0, len(others), _PART):
        for other in others[first : first + _PART]:
            nearest = np.minimum(nearest, np.linalg.norm(pool - other, axis=1))
    places: list[int] = []
    distances: list[float] = []
    while len(places) < min(n, len(pool)):
        # Without known structures, all are equally far.
        score = uncertainty * np.where(np.isinf(nearest), 1.0, nearest)
        at = int(score.argmax())
        if score[at] <= 0.0:
            break
        places.append(at)
        distances.append(float(nearest[at]))
        nearest = np.minimum(nearest, np.linalg.norm(pool - pool[at], axis=1))
        nearest[at] = 0.0
    return ChosenStructures(np.array(places, np.int64), np.array(distances))


def _scaled(features: Floats, known: Floats | None) -> tuple[Floats, Floats]:
    """Return features of pool and known structures in units of their standard deviation, over sqrt(H)."""
    others = np.zeros((0, features.shape[1])) if known is None else known
    both = np.concatenate([features, others])
    spread = both.std(0)
    mask = spread > _CONSTANT * max(float(spread.max()), 1e-300)
    if not mask.any():
        return np.zeros((len(features), 1)), np.zeros((len(others), 1))
    scaled = (both[:, mask] - both[:, mask].mean(0)) / spread[mask] / np.sqrt(mask.sum())
    return scaled[: len(features)], scaled[len(features) :]
