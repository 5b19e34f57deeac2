"""Facts of a dataset, summed over a stream of its structures; memory does not grow with their number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.ingest.summary.references import ReferenceEnergies, residual
from gfm_pipeline.apps.ingest.summary.target_statistics import TargetTotals
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics, NeighbourStatistics
from gfm_pipeline.core.contracts.targets import Target

SAMPLE = 200_000  # numbers per split for the histograms: the first ones, in shuffled order


@dataclass
class _Sums:
    structures: int = 0
    atoms: int = 0
    energy_mean: float = 0.0
    energy_square: float = 0.0  # sum of squares around the mean (Chan, Golub, LeVeque 1979)
    energy_absolute: float = 0.0
    force_atoms: int = 0  # those whose force is known
    force_square: float = 0.0
    force_absolute: float = 0.0
    energies: list[NDArray[np.float64]] = field(default_factory=list)
    forces: list[NDArray[np.float64]] = field(default_factory=list)
    sampled: int = 0
    sampled_forces: int = 0


@dataclass
class Totals:
    """Sums of every split, counts of elements and sizes."""

    references: ReferenceEnergies
    targets: Mapping[str, tuple[Target, Mapping[str, float]]] = field(default_factory=dict)  # and their references
    sums: dict[Split, _Sums] = field(default_factory=dict)
    atoms_of: Counter[int] = field(default_factory=Counter)
    structures_with: Counter[int] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    neighbours: tuple[NeighbourStatistics, ...] = ()  # of the training split

    def __post_init__(self) -> None:
        self.of_targets = {name: TargetTotals(*declared) for name, declared in self.targets.items()}

    def add(self, split: Split, columns: Columns) -> None:
        """Add structures of a split."""
        s = self.sums.setdefault(split, _Sums())
        off = residual(columns, self.references.energies)
        forces = columns.forces[~np.isnan(columns.forces).any(axis=1)].astype(np.float64)
        n, mean = len(columns), float(off.mean())
        delta = mean - s.energy_mean
        s.energy_square += float(((off - mean) ** 2).sum()) + delta**2 * s.structures * n / (s.structures + n)
        s.energy_mean += delta * n / (s.structures + n)
        for totals in self.of_targets.values():
            totals.add(split, columns)
        s.structures += n
        s.atoms += len(columns.numbers)
        s.energy_absolute += float(np.abs(off).sum())
        s.force_atoms += len(forces)
        s.force_square += float((forces**2).sum())
        s.force_absolute += float(np.abs(forces).sum())
        if s.sampled < SAMPLE:
            s.energies.append(off[: SAMPLE - s.sampled])
            s.sampled += len(s.energies[-1])
        if s.sampled_forces < SAMPLE:
            s.forces.append(np.abs(forces).ravel()[: SAMPLE - s.sampled_forces])
            s.sampled_forces += len(s.forces[-1])
        present, counts = columns.composition()
        for k, z in enumerate(present.tolist()):
            self.atoms_of[z] += int(counts[:, k].sum())
            self.structures_with[z] += int(np.count_nonzero(counts[:, k]))
        for size, count in zip(*(a.tolist() for a in np.unique(columns.natoms, return_counts=True)), strict=True):
            self.sizes[size] += count

    def energies(self) -> NDArray[np.float64]:
        """Return a sample of energies minus references (eV/atom)."""
        return np.concatenate([part for s in self.sums.values() for part in s.energies])

    def forces(self) -> NDArray[np.float64]:
        """Return a sample of absolute force components (eV/Angstrom)."""
        return np.concatenate([part for s in self.sums.values() for part in s.forces])

    @property
    def main(self) -> _Sums:
        """Sums of the training split; of a test set, which has none, those of its records."""
        return self.sums[Split.TRAIN if Split.TRAIN in self.sums else Split.TEST]

    def energy_std(self) -> float:
        """Return the scatter of energies minus references on the training split (eV/atom)."""
        train = self.main
        return math.sqrt(max(0.0, train.energy_square) / train.structures)

    def statistics(
        self, name: str, n_groups: dict[Split, int], reasons: dict[str, int], warnings: tuple[str, ...]
    ) -> DatasetStatistics:
        """Return the facts of the dataset."""
        train, none = self.main, dict.fromkeys(map(str, Split), 0)
        elements = tuple(chemical_symbols[z] for z in sorted(self.atoms_of))
        return DatasetStatistics(
            name=name,
            n_structures=none | {str(k): s.structures for k, s in self.sums.items()},
            n_atoms=none | {str(k): s.atoms for k, s in self.sums.items()},
            n_groups={str(k): n for k, n in n_groups.items()},
            elements=elements,
            reference={symbol: self.references.energies[symbol] for symbol in elements},
            reference_rank=self.references.rank,
            reference_from=self.references.origin,
            force_rms=math.sqrt(train.force_square / max(1, 3 * train.force_atoms)),
            energy_std=self.energy_std(),
            null_energy_mae={str(k): s.energy_absolute / s.structures for k, s in self.sums.items()},
            null_force_mae={str(k): s.force_absolute / max(1, 3 * s.force_atoms) for k, s in self.sums.items()},
            max_atoms=max(self.sizes),
            n_quarantined=sum(reasons.values()),
            reasons=reasons,
            energy_mean=train.energy_mean,
            warnings=warnings,
            reference_residual=math.sqrt(train.energy_mean**2 + max(0.0, train.energy_square) / train.structures),
            neighbours=self.neighbours,
            reference_undetermined=self.references.undetermined,
            targets={name: totals.statistics() for name, totals in self.of_targets.items()},
            reference_prior="" if self.references.prior is None else self.references.prior.name,
        )
