"""Calibrated half-widths of the predictions of one structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.calibrators import halfwidth
from gfm_pipeline.apps.calibrate.domain import structure_distance
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.core.contracts.evaluation import DomainCalibration, QuantityCalibration
from gfm_pipeline.core.contracts.targets import Level, Rank, Target


@dataclass(frozen=True)
class Distances:
    """Distances of one structure and its atoms [N] to the training data, in units of the thresholds."""

    structure: float
    atoms: NDArray[np.float64]

    @classmethod
    def of(cls, domain: DomainCalibration, distance: NDArray[np.float64]) -> Distances:
        """Return them from the distances of the atoms [N]."""
        whole = structure_distance(domain, distance, np.array([len(distance)]))
        return cls(float(whole[0]), distance / domain.threshold)


def interval(
    calibration: QuantityCalibration,
    target: Target,
    atoms: Atoms,
    found: tuple[NDArray[np.float64], NDArray[np.float64]],
    distances: Distances | None,
) -> NDArray[np.float64]:
    """Return the half-width of each number of a target, from mean and spread, and distances."""
    size = len(atoms) if target.per_atom else 1
    mean, spread = (np.asarray(values, dtype=np.float64).reshape(-1) / size for values in found)
    of_atoms = target.level is Level.ATOM
    components = len(spread) // (len(atoms) if of_atoms else 1)
    distance = None
    if distances is not None:  # ensembles of earlier versions: all atoms have the distance of the structure
        own = of_atoms and calibration.model is not None
        distance = np.repeat(distances.atoms, components) if own else np.full(len(spread), distances.structure)
    element = np.repeat(atoms.numbers.astype(np.int64), components) if of_atoms else None
    sizes = np.full(len(spread), float(len(atoms)))
    entries = Entries(spread, mean, sizes, distance, element, vector=target.rank is Rank.VECTOR)
    return np.asarray(size * halfwidth(calibration, entries).reshape(np.shape(found[1])), dtype=np.float64)
