"""Test sets beside the data that models learn from: elements, references, and structures that both have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.dataset import Dataset
from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE_ID
from gfm_pipeline.apps.ingest.checks.record_scan import ISOLATED, UNKNOWN_ELEMENT, Marks, PartRows, place
from gfm_pipeline.apps.ingest.checks.shared_structures import structure_keys
from gfm_pipeline.apps.ingest.summary.references import ReferenceEnergies
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings, Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.targets import Target

if TYPE_CHECKING:
    from gfm_pipeline.apps.ingest.assembly.opened_source import OpenedSource
    from gfm_pipeline.apps.runtime.program import Task

FAR = 5.0  # eV/atom between the mean energies of a test set and of training; bonds differ by less
NAMED = 3  # repeated records that a warning names
_LEARNED = {Split.TRAIN: "training", Split.VALIDATION: "validation"}


@dataclass(frozen=True)
class LearnedData:
    """The datasets that models learn from; the first is that of the test set."""

    datasets: tuple[Dataset, ...]

    @classmethod
    def open(cls, folders: Sequence[str]) -> LearnedData:
        """Open published datasets.

        Raises
        ------
        IntegrityError
            When one is damaged.
        """
        return cls(tuple(Dataset.open(Path(folder)) for folder in folders))

    @property
    def own(self) -> DatasetStatistics:
        """Statistics of the dataset of the test set."""
        return self.datasets[0].statistics

    def references(self) -> ReferenceEnergies:
        """Return the reference energies that the models use."""
        return ReferenceEnergies(dict(self.own.reference), self.own.reference_rank, f"those of {self.own.name}")

    def targets(self, targets: Sequence[Target]) -> dict[str, tuple[Target, dict[str, float]]]:
        """Return each target and the reference that the models use."""
        known = self.own.targets
        return {t.name: (t, known[t.name].reference if t.name in known else {}) for t in targets}

    def mark_unusable(self, parts: list[PartRows], marks: Marks, source: OpenedSource) -> int:
        """Leave out isolated atoms, quarantine records of elements without training data; return how many atoms."""
        known = np.zeros(256, dtype=np.bool_)
        known[[atomic_numbers[symbol] for symbol in self.own.elements]] = True
        isolated = 0
        for part in parts:
            group, numbers, natoms, *where = part.columns(
                "group_id", "numbers", "natoms", "file_index", "member", "index"
            )
            lone = group == np.uint64(LONE_ID)
            isolated += int((marks.kept(part) & lone).sum())
            marks.set(np.flatnonzero(lone) + part.first, ISOLATED)
            unknown = np.unique(np.repeat(np.arange(len(natoms)), natoms)[~known[numbers]])
            ends = np.cumsum(natoms)
            for row in unknown[marks.kept(part)[unknown]].tolist():
                mine = numbers[ends[row] - natoms[row] : ends[row]]
                symbols = ", ".join(chemical_symbols[z] for z in np.unique(mine[~known[mine]]).tolist())
                file, member, index = (int(column[row]) for column in where)
                reason = f"element not in training: {self.own.name} has no structure with {symbols}"
                source.set_aside(
                    BadRecord(source.spec.source.name, place(source.spec.source, file, member), index, reason)
                )
                marks.set(np.array([row + part.first]), UNKNOWN_ELEMENT)
        return isolated

    def warnings(
        self, parts: list[PartRows], marks: Marks, source: SourceSettings, energy_mean: float, task: Task
    ) -> tuple[str, ...]:
        """Return what makes the results on a test set doubtful: repeated structures, and energies of another kind.

        Parameters
        ----------
        parts, marks
            Its records.
        source
            Its settings.
        energy_mean
            Mean energy minus references, eV/atom.
        task
            Where to look for a request to stop.
        """
        found = list(self._shared(parts, marks, source, task))
        off = energy_mean - self.own.energy_mean
        if abs(off) > FAR:
            found.append(
                f"The energies are {abs(off):.4g} eV/atom {'above' if off > 0 else 'below'} those of the training "
                f"data of {self.own.name} on average: compare units, keys and levels of theory."
            )
        return tuple(found)

    def _shared(self, parts: list[PartRows], marks: Marks, source: SourceSettings, task: Task) -> Iterator[str]:
        mine, places = _keys_of(parts, marks)
        for dataset in self.datasets:
            for split, name in _LEARNED.items():
                repeated = np.zeros(len(mine), dtype=np.bool_)
                for columns in dataset.blocks(split):
                    task.check()
                    keys = _stored_keys(columns.numbers, columns.pos, columns.cell, columns.pbc, columns.natoms)
                    repeated |= np.isin(mine, keys)
                if not repeated.any():
                    continue
                named = [
                    f"{Path(place(source, file, member)).name}, record {index}"
                    for file, member, index in places[repeated][:NAMED].tolist()
                ]
                more = "" if repeated.sum() <= NAMED else ", ..."
                yield (
                    f"{int(repeated.sum()):,} of {len(mine):,} structures are in the {name} data of {dataset.name}, "
                    f"too ({'; '.join(named)}{more}), so errors here are smaller than on new structures. Leave them "
                    "out of the test set, or out of the source."
                )


def _keys_of(parts: list[PartRows], marks: Marks) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the key, and the file, member and record [G, 3], of each kept structure."""
    keys, places = [np.zeros(0, np.uint64)], [np.zeros((0, 3), np.int64)]
    for rows in parts:
        part, kept = rows.load(), marks.kept(rows)
        keys.append(_stored_keys(part.numbers, part.pos, part.cell, part.pbc, part.natoms)[kept])
        places.append(np.stack([part.file_index, part.member, part.index], axis=1).astype(np.int64)[kept])
    return np.concatenate(keys), np.concatenate(places)


def _stored_keys(
    numbers: NDArray[Any], pos: NDArray[Any], cell: NDArray[Any], pbc: NDArray[np.bool_], natoms: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return keys of structures in single precision, as datasets store them."""
    pos, cell = (array.astype(np.float32).astype(np.float64) for array in (pos, cell))
    return structure_keys(numbers.astype(np.uint8), pos, cell, pbc, natoms)
