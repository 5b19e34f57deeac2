"""Shuffles a dataset that does not fit into memory, in two passes.

Every record has a random 64-bit key. The first pass appends each record to the bucket of its key; the second sorts one
bucket after the other. The order depends on the keys only, not on the number of buckets.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.columns import Columns, flat_ranges
from gfm_pipeline.apps.dataset.store.write import label_bytes
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.layout import CHUNK, LabelExtent
from gfm_pipeline.core.contracts.targets import Level, Target
from gfm_pipeline.core.publish import storage_errors

BUCKET_BYTES = 64 << 20
_GRAPH, _ATOM = 110, 33  # bytes in a bucket
_INDEX = ("natoms", "energy", "numbers")  # in addition to the key: data for the order, the chunks and the references
_DATA = ("pos", "forces", "cell", "pbc", "group", "origin", "graph_attr")
_KINDS = ("index", "data", "labels")  # files of a bucket; the last holds further labels, and weights


@dataclass(frozen=True)
class CountedColumns:
    """Structures, and the number of neighbours of each atom within some radii [N, R]."""

    columns: Columns
    degrees: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, graphs: NDArray[np.int64]) -> CountedColumns:
        """Return the structures ``graphs``, in that order."""
        atoms = flat_ranges(self.columns.offsets[graphs], self.columns.natoms[graphs])
        return CountedColumns(self.columns.take(graphs), self.degrees[atoms])

    @staticmethod
    def concatenate(parts: list[CountedColumns]) -> CountedColumns:
        """Return the structures of all ``parts`` end to end."""
        if len(parts) == 1:
            return parts[0]
        return CountedColumns(
            Columns.concatenate([part.columns for part in parts]), np.concatenate([part.degrees for part in parts])
        )


@dataclass(frozen=True)
class _BucketIndex:
    """A bucket's records in the order of appending, and their order by keys."""

    order: NDArray[np.int64]
    natoms: NDArray[np.int64]
    energy: NDArray[np.float64]
    numbers: NDArray[np.uint8]


@dataclass(frozen=True)
class LabelsOfSome:
    """Labels of some structures: their numbers of atoms [M], atomic numbers [K], and an array per target."""

    natoms: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    labels: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Buckets:
    """The records of one split, on disk.

    Parameters
    ----------
    folder
        Folder of the files; the caller removes it.
    split
        Split of the records.
    n
        Number of buckets.
    targets
        Those beside energy and forces.
    weighted
        Names of targets whose labels have weights.
    """

    folder: Path
    split: Split
    n: int
    targets: tuple[Target, ...] = ()
    weighted: tuple[str, ...] = ()

    @classmethod
    def sized(
        cls,
        folder: Path,
        split: Split,
        n_graphs: int,
        n_atoms: int,
        targets: tuple[Target, ...] = (),
        weighted: tuple[str, ...] = (),
        size: int = BUCKET_BYTES,
    ) -> Buckets:
        """Return buckets of about ``size`` bytes each for these numbers of structures and atoms."""
        of_graph, of_atom = label_bytes(targets, weighted)
        total = n_graphs * (_GRAPH + of_graph) + n_atoms * (_ATOM + of_atom)
        return cls(folder, split, max(1, -(-total // size)), targets, weighted)

    def _file(self, bucket: int, kind: str) -> Path:
        return self.folder / f"{self.split}-{bucket:05d}.{kind}"

    def add(self, key: NDArray[np.uint64], records: CountedColumns) -> None:
        """Append records [G] with their keys to their buckets."""
        bucket = ((key >> np.uint64(32)) * np.uint64(self.n)) >> np.uint64(32)
        for number in np.unique(bucket).tolist():
            mine = np.flatnonzero(bucket == number)
            part = records.take(mine) if len(mine) < len(records) else records
            with storage_errors(self.folder):
                with open(self._file(number, "index"), "ab") as stream:
                    np.save(stream, key[mine], allow_pickle=False)
                    for name in _INDEX:
                        np.save(stream, getattr(part.columns, name), allow_pickle=False)
                with open(self._file(number, "data"), "ab") as stream:
                    for name in _DATA:
                        np.save(stream, getattr(part.columns, name), allow_pickle=False)
                    np.save(stream, part.degrees, allow_pickle=False)
                if self.targets or self.weighted:
                    with open(self._file(number, "labels"), "ab") as stream:
                        for target in self.targets:
                            np.save(stream, part.columns.labels_of(target.name), allow_pickle=False)
                        for name in self.weighted:
                            np.save(stream, part.columns.weights[name], allow_pickle=False)

    def _index(self, bucket: int) -> _BucketIndex:
        pieces = _load(self._file(bucket, "index"), 1 + len(_INDEX))
        if not pieces:
            none = np.zeros(0, np.int64)
            return _BucketIndex(none, none, np.zeros(0), np.zeros(0, np.uint8))
        key, *rest = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return _BucketIndex(np.argsort(key, kind="stable"), *rest)

    def energies(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8]]]:
        """Yield numbers of atoms [M], energies (eV) [M] and atomic numbers of structures in order, bucket by bucket."""
        for bucket in range(self.n):
            found = self._index(bucket)
            if len(found.order):
                starts = np.cumsum(found.natoms) - found.natoms
                natoms = found.natoms[found.order]
                yield natoms, found.energy[found.order], found.numbers[flat_ranges(starts[found.order], natoms)]

    def labels(self) -> Iterator[LabelsOfSome]:
        """Yield the labels of targets other than energy and forces in order, bucket by bucket."""
        for bucket in range(self.n):
            found = self._index(bucket)
            if len(found.order):
                starts = np.cumsum(found.natoms) - found.natoms
                natoms = found.natoms[found.order]
                atoms = flat_ranges(starts[found.order], natoms)
                stored = self._labels(bucket)
                rows = {t.name: atoms if t.level is Level.ATOM else found.order for t in self.targets}
                ordered = {name: array[rows[name]] for name, array in stored.items()}
                yield LabelsOfSome(natoms, found.numbers[atoms], ordered)

    def _labels(self, bucket: int) -> dict[str, NDArray[Any]]:
        """Return the labels of a bucket in the order of appending, by target."""
        return self._labels_and_weights(bucket)[0]

    def _labels_and_weights(self, bucket: int) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        n = len(self.targets)
        if not n + len(self.weighted):
            return {}, {}
        pieces = _load(self._file(bucket, "labels"), n + len(self.weighted))
        columns = [np.concatenate(column) for column in zip(*pieces, strict=True)]
        labels = {target.name: column for target, column in zip(self.targets, columns[:n], strict=True)}
        return labels, dict(zip(self.weighted, columns[n:], strict=True))

    def chunk_atoms(self) -> tuple[NDArray[np.int64], int]:
        """Return the atoms of every chunk of the shuffled order, and the number of structures."""
        atoms: list[NDArray[np.int64]] = []
        left = np.zeros(0, np.int64)
        total = 0
        for bucket in range(self.n):
            found = self._index(bucket)
            natoms = found.natoms[found.order]
            total += len(natoms)
            left = np.concatenate([left, natoms])
            whole = len(left) // CHUNK * CHUNK
            atoms.append(left[:whole].reshape(-1, CHUNK).sum(axis=1))
            left = left[whole:]
        if len(left):
            atoms.append(np.array([left.sum()]))
        return np.concatenate(atoms) if atoms else np.zeros(0, np.int64), total

    def chunks(self, wanted: Container[int] | None = None, *, remove: bool = True) -> Iterator[CountedColumns]:
        """Yield the records in shuffled order, `CHUNK` structures at a time; the last may be shorter.

        Parameters
        ----------
        wanted
            Numbers of the chunks to yield; default all. For a bucket without them, only the index is read.
        remove
            Whether to remove a bucket's files after reading.
        """
        left: list[CountedColumns] = []
        number = held = 0
        for bucket in range(self.n):
            found = self._index(bucket)
            order, at = found.order, 0
            records: CountedColumns | None = None
            while at < len(order):
                mine = order[at : at + CHUNK - held]
                if wanted is None or number in wanted:
                    if records is None:
                        records = self._records(bucket, found)
                    left.append(records.take(mine))
                at += len(mine)
                held += len(mine)
                if held == CHUNK:
                    if left:
                        yield CountedColumns.concatenate(left)
                    left, held, number = [], 0, number + 1
            if remove:
                for kind in _KINDS:
                    self._file(bucket, kind).unlink(missing_ok=True)
        if left:
            yield CountedColumns.concatenate(left)

    def _records(self, bucket: int, found: _BucketIndex) -> CountedColumns:
        *values, degrees = (
            np.concatenate(column) for column in zip(*_load(self._file(bucket, "data"), len(_DATA) + 1), strict=True)
        )
        data: dict[str, Any] = dict(zip(_DATA, values, strict=True))
        further, weights = self._labels_and_weights(bucket)
        labels = by_level(self.targets, further)
        built = Columns.build(
            natoms=found.natoms, energy=found.energy, numbers=found.numbers, weights=weights, **data, **labels
        )
        return CountedColumns(built, degrees)


def by_level(targets: Sequence[Target], labels: Mapping[str, NDArray[np.generic]]) -> dict[str, Any]:
    """Return labels by target for `Columns.build`: those of structures, and those of atoms."""
    return {
        name: {t.name: labels[t.name] for t in targets if t.level is level}
        for name, level in (("graph_labels", Level.GRAPH), ("atom_labels", Level.ATOM))
    }


def _load(path: Path, n: int) -> list[list[NDArray[Any]]]:
    """Return the arrays appended to a file, ``n`` arrays per call of `add`."""
    if not path.exists():
        return []
    pieces: list[list[NDArray[Any]]] = []
    size = path.stat().st_size
    with open(path, "rb") as stream:
        while stream.tell() < size:
            pieces.append([np.load(stream, allow_pickle=False) for _ in range(n)])
    return pieces


def plan_files(
    name: str, chunk_atoms: dict[Split, tuple[NDArray[np.int64], int]], n_files: int
) -> list[tuple[str, dict[Split, LabelExtent]]]:
    """Divide the chunks of every split evenly over the files; a file without chunks of a split lacks its label."""
    files: list[tuple[str, dict[Split, LabelExtent]]] = []
    for number in range(n_files):
        labels: dict[Split, LabelExtent] = {}
        for split, (atoms, n_graphs) in chunk_atoms.items():
            first, last = (len(atoms) * k // n_files for k in (number, number + 1))
            if last > first:
                mine = atoms[first:last]
                starts = np.cumsum(mine) - mine
                graphs = min(last * CHUNK, n_graphs) - first * CHUNK
                labels[split] = LabelExtent(graphs, int(mine.sum()), tuple(starts.tolist()))
        if labels:
            files.append((f"{name}-{len(files):05d}.bp" if n_files > 1 else f"{name}.bp", labels))
    return files
