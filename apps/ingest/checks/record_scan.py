"""The scan of all records before placement: repetitions, groups, references.

Memory does not hold a number per record; comparisons across the source take several passes over the parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.given_splits import given
from gfm_pipeline.apps.ingest.assembly.packed_records import Shard, load_part
from gfm_pipeline.apps.ingest.assembly.shard import ShardIndex
from gfm_pipeline.apps.ingest.checks.fingerprints import order_keys
from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE_ID
from gfm_pipeline.apps.ingest.checks.units import SAMPLE, UnitTest, unit_sentence
from gfm_pipeline.apps.ingest.summary.references import ReferenceEnergies, solve_references
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings

COMPARED_AT_ONCE = 2_000_000  # records; 64 MB of numbers
KEPT, DUPLICATE, OUTSIDE, OTHER_UNIT, ISOLATED, UNKNOWN_ELEMENT = 0, 1, 2, 3, 4, 5


@dataclass(frozen=True)
class PartRows:
    """One part of the source: its file, and the number of its first record among all."""

    path: Path
    first: int
    n: int

    def columns(self, *names: str) -> list[NDArray[Any]]:
        """Read some arrays of the part."""
        return load_part(self.path, *names)

    def load(self) -> Shard:
        """Read the whole part."""
        return Shard.load(self.path)


def all_parts(folders: list[Path], indexes: list[ShardIndex]) -> list[PartRows]:
    """Return the parts of all shards, end to end."""
    parts: list[PartRows] = []
    first = 0
    for folder, index in zip(folders, indexes, strict=True):
        for part in index.parts:
            parts.append(PartRows(folder / part.file, first, part.n_records))
            first += part.n_records
    return parts


class Marks:
    """One byte per record on disk: kept, or the reason why not."""

    def __init__(self, path: Path, n: int) -> None:
        self._marks: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="w+", shape=(max(1, n),))

    def set(self, rows: NDArray[np.int64], mark: int) -> None:
        """Mark records by their numbers."""
        self._marks[rows] = mark

    def kept(self, part: PartRows) -> NDArray[np.bool_]:
        """Return which records of a part are kept."""
        mask: NDArray[np.bool_] = np.asarray(self._marks[part.first : part.first + part.n]) == KEPT
        return mask


def place(source: SourceSettings, file_index: int, member: int) -> str:
    """Return the file of a record, and the number of its member in an archive."""
    name = source.files[file_index] if 0 <= file_index < len(source.files) else source.reader
    return f"{name}, member {member}" if member else name


def _repetitions(
    parts: list[PartRows], names: tuple[str, ...], at_once: int
) -> Iterator[tuple[list[NDArray[Any]], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield columns ``names`` of records, in several passes, with the repetitions and the first record of each.

    Both are positions in the columns, in the order of the source; the last column holds the records' numbers.
    """
    passes = max(1, -(-sum(part.n for part in parts) // at_once))
    for number in range(passes):
        columns: list[list[NDArray[Any]]] = []
        for part in parts:
            fingerprint, *rest = part.columns("fingerprint", "file_index", "member", "index", *names)
            mine = np.flatnonzero(fingerprint % np.uint64(passes) == number)
            columns.append([fingerprint[mine], *(column[mine] for column in rest), mine + part.first])
        if not columns:
            return
        fingerprint, file_index, member, index, *found = (np.concatenate(c) for c in zip(*columns, strict=True))
        order = np.lexsort((index, member, file_index, fingerprint))
        same = np.concatenate([[False], fingerprint[order][1:] == fingerprint[order][:-1]])
        first = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        yield [file_index, member, index, *found], order[same], order[first[same]]


def mark_duplicates(
    parts: list[PartRows],
    source: SourceSettings,
    marks: Marks,
    report: Callable[[BadRecord], None],
    at_once: int = COMPARED_AT_ONCE,
) -> int:
    """Mark every repetition but the first in the order of the source, and return their number."""
    found = 0
    for (file_index, member, index, row), repeated, first in _repetitions(parts, (), at_once):
        for this, that in zip(repeated.tolist(), first.tolist(), strict=True):
            file, first_file = (place(source, int(file_index[k]), int(member[k])) for k in (this, that))
            reason = f"duplicate: the same as record {int(index[that])} of {first_file}"
            report(BadRecord(source.name, file, int(index[this]), reason))
        marks.set(row[repeated], DUPLICATE)
        found += len(repeated)
    return found


def count_repeated_across(parts: list[PartRows], at_once: int = COMPARED_AT_ONCE) -> int:
    """Return how many records repeat one of another given split, without isolated atoms."""
    found = 0
    for (_, _, _, group, _), repeated, first in _repetitions(parts, ("group_id",), at_once):
        this, that = given(group[repeated]), given(group[first])
        bound = group[repeated] != np.uint64(LONE_ID)
        found += int((bound & (this >= 0) & (that >= 0) & (this != that)).sum())
    return found


def composition(numbers: NDArray[np.uint8], natoms: NDArray[np.int64], present: NDArray[np.int64]) -> NDArray[Any]:
    """Return the number of atoms of each element ``present`` in each structure [G, S]."""
    graph = np.repeat(np.arange(len(natoms)), natoms)
    flat = np.bincount(graph * len(present) + np.searchsorted(present, numbers), minlength=len(natoms) * len(present))
    return flat.reshape(len(natoms), len(present)).astype(np.float64)


class Fit:
    """Least squares over a stream, which stores the R factor of the QR decomposition of all rows so far.

    The solution is that of the whole system, without the squared condition number of normal equations
    (G. Golub, C. Van Loan, Matrix Computations, 5.3; the blocks are those of TSQR, J. Demmel et al., SIAM J. Sci.
    Comput. 34, A206 (2012)).
    """

    def __init__(self, present: NDArray[np.int64]) -> None:
        self._present = present
        self._rows: NDArray[np.float64] = np.zeros((0, len(present) + 1))
        self._n = 0

    def add(self, counts: NDArray[np.float64], energy: NDArray[np.float64]) -> None:
        """Add structures: atoms of each element [M, S], energies (eV) [M]."""
        self._n += len(energy)
        rows = np.concatenate([self._rows, np.column_stack([counts, energy])])
        self._rows = np.asarray(np.linalg.qr(rows, mode="r"))

    def off(self, references: ReferenceEnergies) -> float:
        """Return the energy per atom (eV) that brings references nearest to the energies."""
        of_elements = np.array([references.energies.get(chemical_symbols[z], 0.0) for z in self._present.tolist()])
        atoms = self._rows[:, :-1].sum(axis=1)
        rest = self._rows[:, -1] - self._rows[:, :-1] @ of_elements
        return float(atoms @ rest / (atoms @ atoms)) if atoms.any() else 0.0

    def solve(self, elements: tuple[str, ...], isolated: dict[str, float] | None) -> ReferenceEnergies:
        """Return the reference energies."""
        has = np.abs(self._rows[:, :-1]).max(axis=0, initial=0.0) > 1e-9
        rcond = float(np.finfo(np.float64).eps) * min(max(self._n, 1000), 1_000_000)
        return solve_references(
            self._present[has], self._rows[:, :-1][:, has], self._rows[:, -1], elements, isolated, rcond
        )


def read_energies(
    parts: list[PartRows], marks: Marks, present: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield atoms of each element [M, S] and energies [M] of the kept records, part by part."""
    for part in parts:
        numbers, natoms, energy = part.columns("numbers", "natoms", "energy")
        mask = marks.kept(part)
        yield composition(numbers[np.repeat(mask, natoms)], natoms[mask], present), energy[mask]


def mark_other_units(
    parts: list[PartRows],
    source: SourceSettings,
    marks: Marks,
    present: NDArray[np.int64],
    seed: int,
    report: Callable[[BadRecord], None],
) -> int:
    """Mark the records whose energy is in another unit than the rest of the source, and return their number."""
    share = SAMPLE / max(1, sum(part.n for part in parts))
    limit = np.uint64(min(1.0, share) * (2**64 - 2**11))  # the same sample for any shards
    sampled = []
    for part, (counts, energy) in zip(parts, read_energies(parts, marks, present), strict=True):
        mask = marks.kept(part)
        key = order_keys(seed, *(column[mask] for column in part.columns("file_index", "member", "index")))
        sampled.append((key[key <= limit], counts[key <= limit], energy[key <= limit]))
    key, counts, energy = (np.concatenate(column) for column in zip(*sampled, strict=True))
    order = np.argsort(key)
    test = UnitTest.fit(counts[order], energy[order], source.energy_unit)
    if test is None:
        return 0
    found = 0
    for part, (counts, energy) in zip(parts, read_energies(parts, marks, present), strict=True):
        rows = np.flatnonzero(marks.kept(part))
        units = test.units(counts, energy)
        other = np.array([at for at, unit in enumerate(units) if unit is not None], dtype=np.int64)
        if not len(other):
            continue
        file_index, member, index = part.columns("file_index", "member", "index")
        for at in other.tolist():
            row, unit = rows[at], units[at]
            file, number = place(source, int(file_index[row]), int(member[row])), int(index[row])
            report(BadRecord(source.name, file, number, unit_sentence(str(unit), source.energy_unit)))
        marks.set(rows[other] + part.first, OTHER_UNIT)
        found += len(other)
    return found


def mark_outside(
    parts: list[PartRows],
    source: SourceSettings,
    marks: Marks,
    present: NDArray[np.int64],
    reference: NDArray[np.float64],
    report: Callable[[BadRecord], None],
) -> int:
    """Mark the records whose energy minus references is outside the window of the source, and return their number."""
    if source.energy_window is None:
        return 0
    low, high = source.energy_window
    found = 0
    for part, (counts, energy) in zip(parts, read_energies(parts, marks, present), strict=True):
        rows = np.flatnonzero(marks.kept(part))
        per_atom = (energy - counts @ reference) / counts.sum(axis=1)
        bound = part.columns("group_id")[0][rows] != np.uint64(LONE_ID)
        outside = np.flatnonzero(((per_atom < low) | (per_atom > high)) & bound)
        if not len(outside):
            continue
        file_index, member, index = part.columns("file_index", "member", "index")
        for at in outside.tolist():
            row = rows[at]
            file, number = place(source, int(file_index[row]), int(member[row])), int(index[row])
            reason = f"energy outside the window: {per_atom[at]:.4g} eV/atom after the references"
            report(BadRecord(source.name, file, number, reason))
        marks.set(rows[outside] + part.first, OUTSIDE)
        found += len(outside)
    return found


def keys(seed: int, shard: Shard) -> NDArray[np.uint64]:
    """Return the keys of a part's records in the shuffled order."""
    return order_keys(seed, shard.file_index, shard.member, shard.index)


def merge_last(indexes: list[ShardIndex]) -> dict[int, int]:
    """Return each file's number of records seen, as the first number of the next file: position -> offset."""
    last: Counter[int] = Counter()
    for index in indexes:
        for file, number in index.last_index.items():
            last[file] = max(last[file], number + 1)
    offsets, total = {}, 0
    for file in sorted(last):
        offsets[file] = total
        total += last[file]
    return offsets
