"""Calibrated half-widths of the predictions of one structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.calibrators import halfwidth
from gfm_pipeline.apps.calibrate.differences import separation
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.core.contracts.evaluation import QuantityCalibration
from gfm_pipeline.core.contracts.targets import Level, Rank, Target
from gfm_pipeline.models import Potential


@dataclass(frozen=True)
class WeightedMember:
    """A model of an ensemble, its head of the dataset, and its share in the mean."""

    potential: Potential
    head: int
    weight: float


@dataclass(frozen=True)
class MemberValues:
    """Results of K members for structures.

    Attributes
    ----------
    values
        By target, without references [K, G, ...] or [K, N, ...].
    features
        Mean features of structures [G, H] of the first member.
    distances
        Distance of each atom to the training data [N], in units of the threshold; None when not known.
    pooled
        Mean features of structures [G, H] of each member.
    rigidity
        Rigidity of the last layer of energies per structure [K, G], if the measure of uncertainty needs it.
    """

    values: Mapping[str, NDArray[np.float64]]
    features: NDArray[np.float64]
    distances: NDArray[np.float64] | None = None
    pooled: tuple[NDArray[np.float64], ...] = ()
    rigidity: NDArray[np.float64] | None = None

    def apart(self, weights: NDArray[np.float64]) -> tuple[float | None, float]:
        """Return the distance between two structures, and that of the farther one to the training data."""
        if self.distances is None:
            return None, 0.0
        first = np.zeros(1, dtype=np.int64)
        return float(separation(self.pooled, weights, first, first + 1)[0]), float(self.distances.max())


def interval(
    calibration: QuantityCalibration,
    target: Target,
    atoms: Atoms,
    found: tuple[NDArray[np.float64], NDArray[np.float64]],
    distances: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Return the half-width of each number of a target, from mean and spread, and distances of the atoms [N]."""
    size = len(atoms) if target.per_atom else 1
    mean, spread = (np.asarray(values, dtype=np.float64).reshape(-1) / size for values in found)
    of_atoms = target.level is Level.ATOM
    components = len(spread) // (len(atoms) if of_atoms else 1)
    distance = None
    if distances is not None:  # ensembles of earlier versions: all atoms have the distance of the farthest one
        own = of_atoms and calibration.model is not None
        distance = np.repeat(distances, components) if own else np.full(len(spread), distances.max())
    element = np.repeat(atoms.numbers.astype(np.int64), components) if of_atoms else None
    sizes = np.full(len(spread), float(len(atoms)))
    entries = Entries(spread, mean, sizes, distance, element, vector=target.rank is Rank.VECTOR)
    return np.asarray(size * halfwidth(calibration, entries).reshape(np.shape(found[1])), dtype=np.float64)
