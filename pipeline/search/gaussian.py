"""Batches by a Gaussian process while results are few, and by trend and forest, or also a local process, afterwards.

With tens of results in ten dimensions, a Gaussian process learns which dimensions matter; trees and quadratics hardly
do. Its cost grows with the cube of the number of results, so a process of all results ends at `MOST_RESULTS`.

With more results, trend and forest say where good candidates are. Within this region, a process of its results alone
resolves smaller differences than trees can; elsewhere trend and forest stay in use (`BatchLocalGP`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from gfm_pipeline.search.batch import BatchUCB
from gfm_pipeline.search.encoding import Encoding, row_keys
from gfm_pipeline.search.surrogate import Surrogate, SurrogateModel, bounded, quiet

MOST_RESULTS = 256  # of the Gaussian process
FULL_EXPLORATION = 1024  # results; beyond that, exploration falls with their square root
_LENGTHS = (0.1, 20.0)  # length scales of features in [0, 1]; a long one means that a feature does not matter
_NOISE = (1e-4, 1.0)  # variance, as a share of that of the results
REGION = 384  # results of the process: those with the best predictions, not the best noisy values
SAMPLE = 128  # of them that a first fit of the length scales uses
FIRST_STEPS, STEPS = 40, 8  # iterations of the first fit, and of the fit to the whole region
_REGION_LENGTHS = (0.05, 20.0)
_REGION_NOISE = (1e-6, 2.0)  # variance, as a share of that of the residuals

_PART = 2048  # rows per matrix of covariances


class BatchGP(BatchUCB):
    """Batches as those of `BatchUCB`, with another surrogate while results are few, and less exploration later."""

    def fitted(
        self, encoding: Encoding, rows: np.ndarray, objectives: np.ndarray, rng: np.random.Generator
    ) -> SurrogateModel:
        """Return a Gaussian process, or trend and forest for many results."""
        few = len(rows) <= MOST_RESULTS
        return GaussianProcess(encoding, rows, objectives) if few else Surrogate(encoding, rows, objectives, rng)

    def exploration_after(self, results: int) -> float:
        """Return less exploration for many results: the surrogate then knows where good candidates are."""
        return float(self.exploration * min(1.0, (FULL_EXPLORATION / results) ** 0.5))


class GaussianProcess:
    """A Gaussian process with a Matern kernel (5/2), a length scale per feature, and noise, by maximum likelihood.

    One thread computes it, so that equal results give equal numbers on a machine, however many cores are free.

    Parameters
    ----------
    encoding, rows, objectives
        As in `gfm_pipeline.search.surrogate.Surrogate`.
    """

    def __init__(self, encoding: Encoding, rows: np.ndarray, objectives: np.ndarray) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self.rows, self._encoding = rows, encoding
        features, values = self._features(rows), bounded(objectives)
        self._level, self._scale = float(values.mean()), float(values.std()) + 1e-12
        smooth = ConstantKernel(1.0, (0.05, 20.0)) * Matern(np.ones(features.shape[1]), _LENGTHS, nu=2.5)
        self._process = GaussianProcessRegressor(smooth + WhiteKernel(0.05, _NOISE), alpha=1e-8)
        with quiet(), threadpool_limits(1):
            self._process.fit(features, (values - self._level) / self._scale)

    def _features(self, rows: np.ndarray) -> np.ndarray:
        return self._encoding.features(rows).astype(np.float64)

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation of the objective without noise, shape (rows,) each."""
        mean, spread = process_at(self._process, self._features(rows))
        return mean * self._scale + self._level, spread * self._scale


def process_at(process: Any, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation without noise of a fitted process, shape (rows,) each."""
    noise = float(process.kernel_.k2.noise_level)
    means, spreads = [np.zeros(0)], [np.zeros(0)]
    with quiet(), threadpool_limits(1):
        for start in range(0, len(features), _PART):
            mean, spread = process.predict(features[start : start + _PART], return_std=True)
            means.append(mean)
            spreads.append(np.sqrt(np.maximum(spread**2 - noise, 1e-9)))
    return np.concatenate(means), np.concatenate(spreads)


class BatchLocalGP(BatchGP):
    """Batches as those of `BatchGP`, with a process of the best region, and less exploration, beyond its results."""

    share_of_own = True

    def fitted(
        self, encoding: Encoding, rows: np.ndarray, objectives: np.ndarray, rng: np.random.Generator
    ) -> SurrogateModel:
        """Return a Gaussian process of all results, or of the best region for many results."""
        few = len(rows) <= MOST_RESULTS
        return GaussianProcess(encoding, rows, objectives) if few else Local(encoding, rows, objectives, rng)

    def exploration_after(self, results: int) -> float:
        """Return less exploration beyond the results of one process of all."""
        return float(self.exploration * min(1.0, (MOST_RESULTS / results) ** 0.5))


class Local:
    """Trend and forest everywhere, and a Gaussian process on the residuals of the trend in the best region.

    In the region, the process counts by how much of its prior variance its results have taken away at a row: far from
    them it knows nothing. A row outside of the region, by trend and forest, is left to these.

    Parameters
    ----------
    encoding, rows, objectives, rng
        As in `gfm_pipeline.search.surrogate.Surrogate`.
    """

    def __init__(self, encoding: Encoding, rows: np.ndarray, objectives: np.ndarray, rng: np.random.Generator) -> None:
        self._encoding = encoding
        self._wide = Surrogate(encoding, rows, objectives, rng)
        self.rows = self._wide.rows
        mean, _ = self._wide(self.rows)
        region = np.argsort(mean, kind="stable")[:REGION]
        self._edge = float(mean[region].max())
        residuals = self._wide.values[region] - self._wide.trend(self.rows[region])
        self._level, self._scale = float(residuals.mean()), float(residuals.std()) + 1e-12
        self._process = fitted_process(self._features(self.rows[region]), (residuals - self._level) / self._scale, rng)
        self._prior = float(self._process.kernel_.k1.k1.constant_value)
        self._predicted: dict[bytes, tuple[float, float]] = {}

    def _features(self, rows: np.ndarray) -> np.ndarray:
        return self._encoding.features(rows).astype(np.float64)

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation of the objective without noise, shape (rows,) each.

        A batch is bred from rows and then chosen from them, so each row is predicted once and remembered.
        """
        keys = row_keys(rows)
        fresh = [place for place, key in enumerate(keys) if key not in self._predicted]
        if fresh:
            found = zip(*(values.tolist() for values in self._at(rows[fresh])), strict=True)
            self._predicted |= dict(zip((keys[place] for place in fresh), found, strict=True))
        both = np.array([self._predicted[key] for key in keys]).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def _at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, spread = self._wide(rows)
        inside = np.flatnonzero(mean <= self._edge)
        rest, unsure = process_at(self._process, self._features(rows[inside]))
        known = 1.0 - np.minimum(1.0, unsure**2 / self._prior)
        near = rest * self._scale + self._level + self._wide.trend(rows[inside])
        mean[inside] += known * (near - mean[inside])
        spread[inside] = np.sqrt(known * (unsure * self._scale) ** 2 + (1.0 - known) * spread[inside] ** 2)
        return mean, spread


def fitted_process(features: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Any:
    """Return a process with a length scale per feature, by maximum likelihood: of a sample first, then of all.

    The second fit begins where the first one ended, so a few of its expensive iterations suffice.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    smooth = ConstantKernel(1.0, (0.05, 20.0)) * Matern(np.ones(features.shape[1]), _REGION_LENGTHS, nu=2.5)
    sample = rng.choice(len(features), min(SAMPLE, len(features)), replace=False)
    with quiet(), threadpool_limits(1):
        first = GaussianProcessRegressor(
            smooth + WhiteKernel(0.1, _REGION_NOISE), alpha=1e-8, optimizer=_steps(FIRST_STEPS)
        )
        first.fit(features[sample], values[sample])
        process = GaussianProcessRegressor(first.kernel_, alpha=1e-8, optimizer=_steps(STEPS))
        return process.fit(features, values)


def _steps(most: int) -> Callable[..., tuple[np.ndarray, float]]:
    """Return an optimiser of scikit-learn's kind that ends after ``most`` iterations."""

    def optimise(loss: Any, start: np.ndarray, bounds: Any) -> tuple[np.ndarray, float]:
        from scipy.optimize import minimize

        found: Any = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": most})
        return found.x, float(found.fun)

    return optimise
