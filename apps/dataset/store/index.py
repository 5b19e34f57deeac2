"""Index of a dataset: size, labels and number of neighbours of every structure.

To share a batch between ranks, each rank needs sizes and numbers of labels of all structures in it. So ingest counts
once, and stores 28 bytes per structure, and 4 more per target other than energy and forces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.degrees import RADII, Degrees, degrees_from
from gfm_pipeline.apps.dataset.neighbors.edges import CLOSE
from gfm_pipeline.apps.dataset.neighbors.neighbor_list import pairs_within
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.dataset.store.edge_files import EdgeWriter
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import storage_errors

_AT_ONCE = 1 << 20  # rows copied at a time
_FIXED = 3  # natoms, known energies, known force vectors
_COUNTED = _FIXED + len(RADII)  # then known labels of further targets

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """Counts per structure [n]: atoms, directed edges, and known labels by target (0 or 1, or the number of atoms)."""

    natoms: Indices
    nedges: Indices
    known: Mapping[str, Indices]

    @classmethod
    def placed(cls, parts: Sequence[tuple[Indices, Facts]], n: int) -> Facts:
        """Return the facts of ``n`` structures from parts with their positions; missing counts are 0."""
        found = cls(np.zeros(n, np.int64), np.zeros(n, np.int64), {})
        known: dict[str, Indices] = {}
        for places, facts in parts:
            found.natoms[places], found.nedges[places] = facts.natoms, facts.nedges
            for target, counts in facts.known.items():
                known.setdefault(target, np.zeros(n, np.int64))[places] = counts
        return replace(found, known=known)

    @property
    def energies(self) -> Indices:
        """Known energies [n], 0 or 1."""
        return self.known[ENERGY.name]

    @property
    def forces(self) -> Indices:
        """Known force vectors [n]."""
        return self.known[FORCES.name]


@dataclass(frozen=True)
class GraphIndex:
    """The counts of all structures of a split.

    Attributes
    ----------
    rows
        Atoms, known energies, known force vectors, directed edges within each of `RADII`, and known labels of each of
        ``targets`` [G, 7 + T], uint32; on disk, mapped.
    targets
        Those beside energy and forces.
    """

    rows: NDArray[np.uint32]
    targets: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def facts(self, graphs: Indices, cutoff: float | None) -> Facts:
        """Return the facts of ``graphs``; numbers of edges are exact at `RADII` and estimated elsewhere.

        In a crystal the number of edges grows with the volume of the sphere. So it is interpolated in the cube of the
        cutoff between two radii, and extrapolated beyond the last radius. Without a cutoff it is 0.
        """
        rows = np.asarray(self.rows[graphs]).astype(np.int64)
        known = {ENERGY.name: rows[:, 1], FORCES.name: rows[:, 2]}
        known |= {target: rows[:, _COUNTED + k] for k, target in enumerate(self.targets)}
        if cutoff is None:
            return Facts(rows[:, 0], np.zeros(len(rows), dtype=np.int64), known)
        volumes = np.array([0.0, *RADII]) ** 3
        upper = int(np.clip(np.searchsorted(volumes, cutoff**3), 1, len(RADII)))
        edges = np.concatenate([np.zeros((len(rows), 1), dtype=np.int64), rows[:, _FIXED:_COUNTED]], axis=1)
        part = (cutoff**3 - volumes[upper - 1]) / (volumes[upper] - volumes[upper - 1])
        nedges = np.rint(edges[:, upper - 1] + part * (edges[:, upper] - edges[:, upper - 1])).astype(np.int64)
        return Facts(rows[:, 0], nedges, known)


def index_file(label: Split) -> str:
    """Return the name of a split's index in the folder of its dataset."""
    return f"{label}.index.npy"


def known_labels(labels: NDArray[np.floating[Any]], offsets: Indices | None = None) -> Indices:
    """Return the number of known labels of each structure [G].

    Parameters
    ----------
    labels
        Of structures [G, ...], or of atoms [N, ...].
    offsets
        Of atoms: the first one of each structure, and N [G + 1].
    """
    known: NDArray[np.bool_] = ~np.isnan(labels).any(axis=tuple(range(1, labels.ndim)))
    if offsets is None:
        return known.astype(np.int64)
    total = np.concatenate([[0], np.cumsum(known)])
    found: Indices = total[offsets[1:]] - total[offsets[:-1]]
    return found


def rows_of(columns: Columns, degrees: NDArray[np.uint16], targets: Sequence[str] = ()) -> NDArray[np.uint32]:
    """Return the rows of a `GraphIndex` from structures and the degrees of their atoms within `RADII` [N, R]."""
    rows = np.zeros((len(columns), _COUNTED + len(targets)), dtype=np.uint32)
    rows[:, 0] = columns.natoms
    rows[:, 1] = known_labels(columns.energy)
    rows[:, 2] = known_labels(columns.forces, columns.offsets)
    for k, target in enumerate(targets):
        offsets = columns.offsets if target in columns.atom_labels else None
        rows[:, _COUNTED + k] = known_labels(columns.labels_of(target), offsets)
    total = np.concatenate([np.zeros((1, len(RADII)), np.int64), np.cumsum(degrees, axis=0, dtype=np.int64)])
    rows[:, _FIXED:_COUNTED] = total[columns.offsets[1:]] - total[columns.offsets[:-1]]
    return rows


def count(
    columns: Columns,
    check: Callable[[], None] = lambda: None,
    keep: Callable[[Indices, Indices, Indices], None] | None = None,
    cutoff: float = 0.0,
) -> NDArray[np.uint16]:
    """Return the number of neighbours of each atom within each of `RADII` [N, R].

    Parameters
    ----------
    columns
        The structures.
    check
        Called periodically; may raise to stop.
    keep
        Receives the edges of each structure sorted by length: ends [E] and images [E, 3] of all pairs within ``cutoff``
        plus `CLOSE`.
    cutoff
        Angstrom; needed with ``keep`` only.

    Raises
    ------
    DataError
        When a periodic cell has no volume.
    """
    degrees = np.zeros((len(columns.numbers), len(RADII)), dtype=np.uint16)
    farthest = RADII[-1] if keep is None else max(RADII[-1], cutoff + CLOSE)
    for g in range(len(columns)):
        if g % 256 == 0:
            check()
        first, last = int(columns.offsets[g]), int(columns.offsets[g + 1])
        atoms = slice(first, last)
        src, dst, image, distance = pairs_within(columns.pos[atoms], columns.cell[g], columns.pbc[g], farthest)
        if keep is not None:
            near = np.argsort(distance, kind="stable")[: np.count_nonzero(distance < cutoff + CLOSE)]
            keep(src[near], dst[near], image[near])
        degrees[atoms] = degrees_from(src, distance, last - first)
    return degrees


class IndexWriter:
    """Writes the index of every split, and optionally edges, while the structures of a dataset pass by.

    Parameters
    ----------
    folder
        Of the dataset.
    sizes
        Structures of each split.
    cutoff
        Edges within it (Angstrom) are stored; None: no edges.
    targets
        Those beside energy and forces.

    Raises
    ------
    StorageError
        When the disk refuses.
    """

    def __init__(
        self, folder: Path, sizes: Mapping[Split, int], cutoff: float | None = None, targets: Sequence[str] = ()
    ) -> None:
        self._targets = tuple(targets)
        self._folder, self._sizes, self._cutoff = folder, sizes, cutoff
        self._edges = None if cutoff is None else EdgeWriter(folder, sizes)
        self._open = ExitStack()
        self._done = dict.fromkeys(sizes, 0)
        self.degrees: dict[Split, Degrees] = {}

    def __enter__(self) -> IndexWriter:
        for label, n in self._sizes.items():
            path = self._folder / index_file(label)
            with storage_errors(path):
                # written, not mapped: a full disk fails a write with an error, but kills a process with a mapping
                np.save(path, np.zeros((n, _COUNTED + len(self._targets)), dtype=np.uint32))
        if self._edges is not None:
            self._open.enter_context(self._edges)
        return self

    def add(
        self,
        label: Split,
        columns: Columns,
        check: Callable[[], None] = lambda: None,
        degrees: NDArray[np.uint16] | None = None,
    ) -> None:
        """Add the next structures of ``label``.

        Parameters
        ----------
        label, columns
            Their split, and the structures.
        check
            See `count`.
        degrees
            Numbers of neighbours of their atoms within each of `RADII` [N, R], if already counted.
        """
        if degrees is None or self._edges is not None:
            keep = None if self._edges is None else partial(self._edges.add, label)
            degrees = count(columns, check, keep, self._cutoff or 0.0)
        self.put(label, rows_of(columns, degrees, self._targets))
        found = Degrees.of(degrees)
        self.degrees[label] = self.degrees[label] + found if label in self.degrees else found

    def put(self, label: Split, rows: NDArray[np.uint32]) -> None:
        """Write the next rows of ``label`` [n, 7 + T], already counted."""
        path = self._folder / index_file(label)
        with storage_errors(path), open(path, "r+b") as stream:
            stream.seek(-rows[0:1].nbytes * (self._sizes[label] - self._done[label]), os.SEEK_END)
            stream.write(rows.tobytes())
        self._done[label] += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        if kind is None and self._done != dict(self._sizes):
            raise ValueError(f"The index got {self._done} structures, not {dict(self._sizes)}.")


def join_indexes(folder: Path, label: Split, parts: Sequence[Path], targets: Sequence[str] = ()) -> None:
    """Join the indexes of a split in ``parts`` into ``folder``, end to end, with one piece in memory at a time.

    Raises
    ------
    StorageError
        When the disk refuses.
    """
    pieces = [np.load(part / index_file(label), mmap_mode="r", allow_pickle=False) for part in parts]
    with IndexWriter(folder, {label: sum(len(piece) for piece in pieces)}, targets=targets) as index:
        for piece in pieces:
            for first in range(0, len(piece), _AT_ONCE):
                index.put(label, np.asarray(piece[first : first + _AT_ONCE]))


def read_index(folder: Path, label: Split, n: int, targets: Sequence[str] = ()) -> GraphIndex | None:
    """Map the index of a split of ``n`` structures with labels of ``targets``; None when the folder has none.

    Raises
    ------
    IntegrityError
        When it is not an index of ``n`` structures.
    """
    path = folder / index_file(label)
    if not path.exists():
        return None
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}.") from error
    if rows.dtype != np.uint32 or rows.shape != (n, _COUNTED + len(targets)):
        raise IntegrityError(f"{path} is not an index of {n} structures.", "Ingest the dataset again.")
    return GraphIndex(rows, tuple(targets))
