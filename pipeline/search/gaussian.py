"""Batches by a Gaussian process while results are few, and by trend and forest afterwards.

With tens of results in ten dimensions, a Gaussian process learns which dimensions matter; trees and quadratics hardly
do. Its cost grows with the cube of the number of results, and its advantage shrinks, so it ends at `MOST_RESULTS`.
"""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from gfm_pipeline.search.batch import BatchUCB
from gfm_pipeline.search.encoding import Encoding
from gfm_pipeline.search.surrogate import Surrogate, SurrogateModel, bounded, quiet

MOST_RESULTS = 256  # of the Gaussian process
FULL_EXPLORATION = 1024  # results; beyond that, exploration falls with their square root
_LENGTHS = (0.1, 20.0)  # length scales of features in [0, 1]; a long one means that a feature does not matter
_NOISE = (1e-4, 1.0)  # variance, as a share of that of the results
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
        self._noise = float(self._process.kernel_.k2.noise_level)

    def _features(self, rows: np.ndarray) -> np.ndarray:
        return self._encoding.features(rows).astype(np.float64)

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation of the objective without noise, shape (rows,) each."""
        features = self._features(rows)
        means, spreads = [np.zeros(0)], [np.zeros(0)]
        with quiet(), threadpool_limits(1):
            for start in range(0, len(rows), _PART):
                mean, spread = self._process.predict(features[start : start + _PART], return_std=True)
                means.append(mean)
                spreads.append(np.sqrt(np.maximum(spread**2 - self._noise, 1e-9)))
        return np.concatenate(means) * self._scale + self._level, np.concatenate(spreads) * self._scale
