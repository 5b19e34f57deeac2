"""The surrogate of batch proposals: a quadratic trend per algorithm, and DeepHyper's forest on the residuals.

Trees are piecewise constant, so a forest alone cannot find the direction in which the objective still falls. The trend
can. Generalised cross-validation (Golub, Heath and Wahba 1979) on the given results decides how strong the trend is.
With few results, or an objective that is not smooth, the trend is a constant, and the forest explains everything.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from gfm_pipeline.search.encoding import Encoding
from gfm_pipeline.search.imports import unchanged_root_logger, without_module

TREES = 60
LARGEST_LEAF, PER_LEAF = 5, 64  # results per leaf: more results average out noise; large leaves need many results
MAX_FIT = 10_000  # fitted results: the best ones, and an even draw of the others
_RIDGES = 10.0 ** np.arange(-6, 3.0)
_FLOOR = 0.02  # weight of a bad result in the trend


class SurrogateModel(Protocol):
    """A model of the objective; ``rows`` are the results that it was fitted to, shape (results, columns)."""

    rows: np.ndarray

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation at rows, shape (rows,) each."""


class Surrogate:
    """Mean and uncertainty of the objective (lower is better) at any row, from results.

    Parameters
    ----------
    encoding
        Of the search space.
    rows
        Candidates with a result, shape (results, columns).
    objectives
        Their results, shape (results,); NaN: diverged or failed, which counts as the worst result.
    rng
        Chooses the fitted results if there are more than `MAX_FIT`, and seeds the trees.
    """

    def __init__(self, encoding: Encoding, rows: np.ndarray, objectives: np.ndarray, rng: np.random.Generator) -> None:
        self._encoding = encoding
        values = bounded(objectives)
        if len(values) > MAX_FIT:
            order = np.argsort(values, kind="stable")
            best, others = order[: MAX_FIT // 2], order[MAX_FIT // 2 :]
            kept = np.sort(np.concatenate([best, rng.choice(others, MAX_FIT - len(best), replace=False)]))
            rows, values = rows[kept], values[kept]
        self.trend = Trend(encoding, rows, values)
        rest = values - self.trend(rows)
        with quiet():
            with without_module("mpi4py"), unchanged_root_logger():
                from deephyper.skopt.learning import ExtraTreesRegressor
            self._forest: Any = ExtraTreesRegressor(
                n_estimators=TREES,
                min_samples_leaf=int(np.clip(len(rows) // PER_LEAF, 1, LARGEST_LEAF)),
                bootstrap=False,
                n_jobs=1,
                random_state=int(rng.integers(2**32)),
            )
            self._forest.fit(encoding.features(rows), rest)
        self.rows, self.values = rows, values

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation over the trees, shape (rows,) each."""
        with quiet():
            mean, _, spread = self._forest.predict(
                self._encoding.features(rows), return_std=True, disentangled_std=True
            )
        return mean + self.trend(rows), spread


class Trend:
    """A quadratic of each algorithm with interactions common to all, fitted by weighted ridge regression.

    Good results weigh more than bad ones. ``ridge`` is the penalty that cross-validation chose; infinite: a constant.
    """

    def __init__(self, encoding: Encoding, rows: np.ndarray, values: np.ndarray) -> None:
        self._encoding = encoding
        good = np.quantile(values, 0.3)
        width = max(float(good - values.min()), 1e-12)
        weight = np.exp(-np.maximum(0.0, values - good) / width) + _FLOOR
        weight /= weight.mean()
        self.level = float(np.average(values, weights=weight))
        terms = self._terms(rows)
        self._centre = np.average(terms, axis=0, weights=weight)
        root = np.sqrt(weight)[:, None]
        scaled = (terms - self._centre) * root
        self._scale = np.sqrt((scaled**2).mean(axis=0)) + 1e-9
        self.ridge, factors = _cross_validated(scaled / self._scale, (values - self.level) * root[:, 0])
        self._factors = factors / self._scale

    def _terms(self, rows: np.ndarray) -> np.ndarray:
        """Return the terms of the polynomial, shape (rows, terms)."""
        encoding = self._encoding
        ordered = [c for c, column in enumerate(encoding.columns) if not column.is_name and column.count != 1]
        x = 2.0 * encoding.units(rows)[:, ordered] - 1.0
        used = encoding.active(rows)[:, ordered]
        x = np.where(used, x, 0.0)
        mine = encoding.algorithm(rows)[:, None] == np.arange(len(encoding.space.algorithms))
        of_each = [mine.astype(float)]
        for k in range(x.shape[1]):
            has = mine[:, encoding.uses(ordered[k])]
            of_each += [has * x[:, [k]], has * x[:, [k]] ** 2]
        shared = [k for k, c in enumerate(ordered) if encoding.uses(c).sum() > 1 or len(encoding.space.algorithms) == 1]
        pairs = [x[:, [i]] * x[:, [j]] for i in shared for j in shared if i < j]
        return np.hstack([*of_each, *pairs])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the trend at rows, shape (rows,)."""
        if not np.isfinite(self.ridge):
            return np.full(len(rows), self.level)
        return np.asarray(self.level + (self._terms(rows) - self._centre) @ self._factors)


def _cross_validated(terms: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the ridge with the least generalised cross-validation error, and its factors; infinite: a constant."""
    n = len(values)
    variances, directions = np.linalg.eigh(terms.T @ terms)
    variances = np.maximum(variances, 0.0)
    projected = directions.T @ (terms.T @ values)
    total = float(values @ values)
    best = (total / max(n - 1, 1) ** 2, np.inf, np.zeros(terms.shape[1]))
    for share in _RIDGES:
        ridge = share * n
        shrunk = projected / (variances + ridge)
        left = total - 2.0 * float(shrunk @ projected) + float((variances * shrunk) @ shrunk)
        freedom = n - 1 - float((variances / (variances + ridge)).sum())
        if freedom > 0.1 * n:
            error = max(left, 0.0) / freedom**2
            if error < best[0]:
                best = (error, ridge, directions @ shrunk)
    return best[1], best[2]


def bounded(objectives: np.ndarray) -> np.ndarray:
    """Return objectives without outliers: clip the worst tenth, and give failures the worst value.

    Otherwise a diverged candidate with an objective of thousands would hide all differences between the others.
    """
    finite = objectives[np.isfinite(objectives)]
    edge, low = float(np.quantile(finite, 0.9)), float(finite.min())
    width = max(edge - low, 1e-12)
    worst = edge + 0.1 * width
    filled = np.where(np.isfinite(objectives), objectives, np.inf)
    beyond = edge + 0.1 * width * np.tanh((np.minimum(filled, edge + 100 * width) - edge) / width)
    return np.where(np.isfinite(filled), np.where(filled > edge, beyond, filled), worst)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of DeepHyper and scikit-learn about each other's deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("deephyper").setLevel(logging.ERROR)
        yield
