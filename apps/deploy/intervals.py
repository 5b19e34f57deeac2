"""Calibrated half-widths of the predictions of one structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from gfm_pipeline.apps.calibrate.calibrators import halfwidth
from gfm_pipeline.apps.calibrate.differences import separation
from gfm_pipeline.apps.calibrate.domain import structure_distance
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.apps.calibrate.uncertainty import MemberEvidence
from gfm_pipeline.core.contracts.evaluation import DomainCalibration, QuantityCalibration
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
        Distance of each atom to the training data [N]; None when not known.
    pooled
        Mean features of structures [G, H] of each member.
    rigidity
        Rigidity of the last layer of energies per structure [K, G], if the measure of uncertainty needs it.
    within
        Spread of shallow ensembles [K, G, ...] or [K, N, ...], of the targets for which every member has one.
    """

    values: Mapping[str, NDArray[np.float64]]
    features: NDArray[np.float64]
    distances: NDArray[np.float64] | None = None
    pooled: tuple[NDArray[np.float64], ...] = ()
    rigidity: NDArray[np.float64] | None = None
    within: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def evidence(self, target: Target, weights: NDArray[np.float64], number: int, of_atoms: slice) -> MemberEvidence:
        """Return what the members give for a target of one structure, by its number and its atoms."""
        row = of_atoms if target.level is Level.ATOM else number
        size = of_atoms.stop - of_atoms.start if target.per_atom else 1
        rigid = None if self.rigidity is None or target.level is Level.ATOM else size * self.rigidity[:, number]
        within = self.within[target.name][:, row] if target.name in self.within else None
        return MemberEvidence(target, self.values[target.name][:, row], weights, rigid, within)

    def far(self, domain: DomainCalibration | None, of_atoms: slice) -> Distances | None:
        """Return the distances of the structure with some of the atoms; None when not known."""
        return None if domain is None or self.distances is None else Distances.of(domain, self.distances[of_atoms])

    def apart(self, weights: NDArray[np.float64]) -> float | None:
        """Return the distance between two structures; None when not known."""
        if self.distances is None:
            return None
        first = np.zeros(1, dtype=np.int64)
        return float(separation(self.pooled, weights, first, first + 1)[0])


def stacked(found: Sequence[Mapping[str, Tensor]], targets: Sequence[Target]) -> dict[str, NDArray[np.float64]]:
    """Return the values of K members by target [K, ...]."""
    return {t.name: np.stack([one[t.name].double().cpu().numpy() for one in found]) for t in targets}


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
