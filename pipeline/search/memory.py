"""Predicts the memory of candidates from trainings of this search; candidates that need too much are not proposed.

Memory grows as products of powers of widths, depths, batches and cutoffs, so its logarithm is linear in the logarithms
of the numbers, with a constant for each name. A ridge regression of this form needs few results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfm_pipeline.search.encoding import Encoding
from gfm_pipeline.search.space import SearchSpace

LEAST = 8  # number of results from which candidates are refused
RIDGE = 1e-2
BEYOND = 1.25  # times the limit: assumed need of a training that ran out of memory
ROUNDS = 8  # of proposals that replace refused ones

Measured = tuple[Mapping[str, Any], float]  # settings of a candidate, and the memory of its training (GB)


@dataclass(frozen=True)
class MemoryLimit:
    """Memory of past trainings, and the most that one training may take (GB per rank)."""

    most_gb: float
    measured: Sequence[Measured]


class MemoryModel:
    """Predicts the memory of candidates.

    Parameters
    ----------
    space
        Search space of the candidates.
    measured
        Memory of past trainings, at least `LEAST`.
    """

    def __init__(self, space: SearchSpace, measured: Sequence[Measured]) -> None:
        self._encoding = Encoding(space)
        terms = self._terms([settings for settings, _ in measured])
        wanted = np.log([max(gb, 1e-6) for _, gb in measured])
        self._centre, self._level = terms.mean(axis=0), float(wanted.mean())
        centred = terms - self._centre
        penalty = RIDGE * np.eye(terms.shape[1])
        self._factors = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (wanted - self._level))
        self.scatter = float(np.std(wanted - self._level - centred @ self._factors))

    def __call__(self, settings: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return the memory of each candidate (GB), shape (candidates,)."""
        return np.asarray(np.exp(self._level + (self._terms(settings) - self._centre) @ self._factors))

    def _terms(self, settings: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return logarithms of numbers, and zeros and ones for names, shape (candidates, terms)."""
        encoding, found = self._encoding, []
        rows = encoding.encode(settings)
        used = encoding.active(rows)
        for c, column in enumerate(encoding.columns):
            if column.is_name:
                found += [rows[:, c] == code for code in range(column.count or 0)]
                continue
            values = np.array([s.get(column.name, column.dimension.first) for s in settings], float)
            found.append(np.where(used[:, c], np.log(np.maximum(values, 1e-12)), 0.0))
        return np.stack(found, axis=1).astype(float)


def too_large(space: SearchSpace, limit: MemoryLimit, proposed: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Return which candidates exceed the limit by more than the scatter of the prediction."""
    if len(limit.measured) < LEAST or not proposed:
        return [False] * len(proposed)
    model = MemoryModel(space, limit.measured)
    return [bool(gb > limit.most_gb * np.exp(model.scatter)) for gb in model(proposed)]
