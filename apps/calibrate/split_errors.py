"""Errors on the test split by element, size, config type, group and file, and the structures with the largest ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.formula import Formula
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate import metrics
from gfm_pipeline.apps.calibrate.aggregate import SplitPredictions, TargetPredictions
from gfm_pipeline.apps.calibrate.calibrators import halfwidth
from gfm_pipeline.apps.calibrate.groups import size_class
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.core.contracts.accuracy.split_errors import DrawnStructure, GroupDomain, GroupErrors, SplitErrors
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import DatasetCalibration
from gfm_pipeline.core.contracts.layout import Origins
from gfm_pipeline.core.publish import read_manifest
from gfm_pipeline.core.records import from_plain

MOST_GROUPS = 20  # rows of a dataset for each kind of group
WORST = 4  # drawn structures of each target
MOST_DRAWN = 200  # atoms of a drawn structure: those nearest to the atom with the error
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class StructureGroups:
    """A way to divide the structures of a split: the name of each group, and the group of each structure [G]."""

    by: str
    names: tuple[str, ...]
    index: Ints

    @classmethod
    def of(cls, by: str, names: Sequence[str]) -> StructureGroups:
        """Return the grouping of structures by a name of each [G]."""
        found, index = np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)
        return cls(by, tuple(map(str, found)), index.astype(np.int64))

    def largest(self) -> tuple[list[int], int]:
        """Return the groups with the most structures, in order of their names, and the number of the others."""
        sizes = np.bincount(self.index, minlength=len(self.names))
        kept = sorted(np.argsort(-sizes, kind="stable")[:MOST_GROUPS].tolist())
        return kept, len(self.names) - len(kept)


@dataclass(frozen=True)
class SplitStructures:
    """Structures of the test split of a dataset: what identifies them, and how they are grouped."""

    dataset: Dataset
    origins: Origins
    group: Ints
    origin: Ints
    natoms: Ints

    @classmethod
    def read(cls, dataset: Dataset) -> SplitStructures:
        """Read them from a dataset; of positions nothing is kept in memory."""
        known = read_manifest(dataset.path).meta.get("origins")
        origins = Origins((), ()) if known is None else from_plain(Origins, known)
        columns = dataset.columns(Split.TEST)
        return cls(dataset, origins, columns.group, columns.origin, columns.natoms)

    def groupings(self) -> Iterator[StructureGroups]:
        """Yield the groupings that have more than one group."""
        lower = [size_class(int(n)) for n in self.natoms]
        by_size = list(dict.fromkeys(size_class(n) for n in sorted(set(self.natoms.tolist()))))
        yield StructureGroups("size", tuple(by_size), np.array([by_size.index(name) for name in lower], dtype=np.int64))
        yield StructureGroups.of("group", [self.origins.group(int(g)) for g in self.group])
        if self.origins.config_types:
            yield StructureGroups.of("config type", [self._config_type(int(n)) for n in self.origin])
        yield StructureGroups.of("file", [self.origins.place(int(n)).rpartition("#")[0] for n in self.origin])

    def _config_type(self, number: int) -> str:
        return self.origins.config_type(number) or "none stated"


def split_errors(
    structures: SplitStructures, test: SplitPredictions, calibration: DatasetCalibration, shares: Array
) -> SplitErrors:
    """Return the errors of the test split of one dataset.

    Parameters
    ----------
    structures
        Of the split, in the order of ``test``.
    test
        Predictions after calibration: with weights and distances.
    calibration
        That of the dataset.
    shares
        Weight of each member [K].
    """
    kept: list[tuple[StructureGroups, list[int]]] = []
    left_out: dict[str, int] = {}
    for grouping in structures.groupings():
        if len(grouping.names) > 1:
            chosen, more = grouping.largest()
            kept.append((grouping, chosen))
            left_out |= {grouping.by: more} if more else {}
    outside = _outside(test, calibration, shares)
    groups: list[GroupErrors] = []
    worst: list[DrawnStructure] = []
    for name, found in test.targets.items():
        fitted = calibration.of(name)
        if fitted is None or not len(found.label):
            continue
        entries = _TargetErrors.of(name, found, halfwidth(fitted, found.entries), structures.natoms)
        groups += entries.rows(kept, test.numbers)
        worst += _worst(structures, entries, outside)
    return SplitErrors(tuple(groups), tuple(_domains(kept, outside)), tuple(worst), left_out)


def _outside(test: SplitPredictions, calibration: DatasetCalibration, shares: Array) -> NDArray[np.bool_] | None:
    """Return whether each structure [G] is out of domain; None if the ensemble cannot tell."""
    return None if calibration.domain is None else test.outside(shares, calibration.domain)


def _domains(
    kept: Sequence[tuple[StructureGroups, list[int]]], outside: NDArray[np.bool_] | None
) -> Iterator[GroupDomain]:
    if outside is None:
        return
    yield GroupDomain("all", "all", len(outside), int(outside.sum()))
    for grouping, chosen in kept:
        sizes = np.bincount(grouping.index, minlength=len(grouping.names))
        beyond = np.bincount(grouping.index, weights=outside, minlength=len(grouping.names))
        for k in chosen:
            yield GroupDomain(grouping.by, grouping.names[k], int(sizes[k]), int(beyond[k]))


@dataclass(frozen=True)
class _TargetErrors:
    """The n entries of a target.

    ``owner`` [N] is the structure of each atom of the split; ``structure`` and ``atom`` [n] are those of each entry,
    ``atom`` is None for targets of structures.
    """

    target: str
    found: TargetPredictions
    halfwidth: Array
    owner: Ints
    structure: Ints
    atom: Ints | None

    @classmethod
    def of(cls, target: str, found: TargetPredictions, bound: Array, natoms: Ints) -> _TargetErrors:
        owner = np.repeat(np.arange(len(natoms)), natoms)
        if not found.of_atoms:
            return cls(target, found, bound, owner, found.place, None)
        return cls(target, found, bound, owner, owner[found.place], found.place)

    def rows(self, kept: Sequence[tuple[StructureGroups, list[int]]], numbers: Ints | None) -> Iterator[GroupErrors]:
        yield self._row("all", "all", np.arange(len(self.structure)))
        if numbers is not None:
            yield from self._by_element(numbers)
        for grouping, chosen in kept:
            of_entry = grouping.index[self.structure]
            order = np.argsort(of_entry, kind="stable")
            ends = np.cumsum(np.bincount(of_entry, minlength=len(grouping.names)))
            for k in chosen:
                own = order[int(ends[k - 1]) if k else 0 : int(ends[k])]
                if len(own):
                    yield self._row(grouping.by, grouping.names[k], own)

    def _by_element(self, numbers: Ints) -> Iterator[GroupErrors]:
        for number in np.unique(numbers):
            if self.atom is not None:
                own = np.flatnonzero(numbers[self.atom] == number)
            else:
                own = np.flatnonzero(np.isin(self.structure, self.owner[numbers == number]))
            if 0 < len(own) < len(self.structure):
                yield self._row("element", chemical_symbols[number], own)

    def _row(self, by: str, group: str, own: Ints) -> GroupErrors:
        error, bound, cluster = self.found.error[own], self.halfwidth[own], self.found.cluster[own]
        spread = metrics.coverage_error(error, bound, cluster) if len(np.unique(cluster)) > 1 else None
        return GroupErrors(
            self.target, by, group, len(np.unique(self.structure[own])), len(own), metrics.mae(error),
            metrics.rmse(error), float(np.abs(error).max()), metrics.coverage(error, bound),
            spread,
        )  # fmt: skip

    def worst(self) -> list[int]:
        """Return the entry with the largest error of each of the worst structures, the worst first."""
        order = np.argsort(-np.abs(self.found.error), kind="stable")
        _, first = np.unique(self.structure[order], return_index=True)
        return [int(order[k]) for k in np.sort(first)[:WORST]]


def _worst(
    structures: SplitStructures, entries: _TargetErrors, outside: NDArray[np.bool_] | None
) -> Iterator[DrawnStructure]:
    """Yield the structures with the largest errors of a target, and the positions of their atoms."""
    starts = np.cumsum(structures.natoms) - structures.natoms
    for entry in entries.worst():
        g = int(entries.structure[entry])
        columns = structures.dataset.columns(Split.TEST, np.array([g]))
        atom = None if entries.atom is None else int(entries.atom[entry] - starts[g])
        symbols = [chemical_symbols[z] for z in columns.numbers]
        drawn = _nearest(columns.pos.astype(np.float64), atom or 0)
        part = Atoms(columns.numbers[drawn], positions=columns.pos[drawn])
        first, second = neighbor_list("ij", part, natural_cutoffs(part, mult=1.15))
        yield DrawnStructure(
            entries.target,
            abs(float(entries.found.error[entry])),
            float(bound) if np.isfinite(bound := entries.halfwidth[entry]) else None,
            float(entries.found.label[entry]),
            float(entries.found.mean[entry]),
            structures.origins.place(int(structures.origin[g])),
            structures.origins.group(int(structures.group[g])),
            str(Formula.from_list(symbols).format("hill")),
            tuple(symbols[k] for k in drawn),
            tuple(_rounded(columns.pos[k]) for k in drawn),
            len(symbols),
            tuple(round(float(covalent_radii[z]), 2) for z in part.numbers),
            tuple((int(a), int(b)) for a, b in zip(first, second, strict=True) if a < b),
            tuple(_rounded(row) for row in columns.cell[0]) if columns.pbc[0].any() else (),
            None if atom is None else drawn.index(atom),
            None if outside is None else not bool(outside[g]),
        )


def _nearest(positions: Array, atom: int) -> list[int]:
    """Return the indices of the atoms that are drawn, ascending."""
    distance = np.linalg.norm(positions - positions[atom], axis=1)
    return sorted(np.argsort(distance, kind="stable")[:MOST_DRAWN].tolist())


def _rounded(row: NDArray[np.float32]) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 3) for value in row)
    return x, y, z
