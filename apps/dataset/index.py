"""What is known of every structure without reading it: its size, its labels, and how many neighbours it has.

Sharing a batch between ranks needs sizes and numbers of labels of all its structures, whoever reads them. So ingest
counts once, and keeps 28 bytes a structure beside the atoms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.contracts.data import NeighbourStatistics, Split
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.apps.dataset.edge_files import EdgeWriter
from gfm_pipeline.apps.dataset.edges import CLOSE
from gfm_pipeline.apps.dataset.neighbours import pairs_within
from gfm_pipeline.common.errors import IntegrityError
from gfm_pipeline.common.publish import storage_errors

RADII = (3.0, 4.0, 5.0, 6.0)  # Angstrom; edges at other cutoffs are interpolated
_AT_ONCE = 1 << 20  # rows that are copied at a time
_FIXED = 3  # natoms, known energies, known force vectors

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """Of some structures [n] each: atoms, directed edges, known energies (0 or 1), known force vectors."""

    natoms: Indices
    nedges: Indices
    energies: Indices
    forces: Indices


@dataclass(frozen=True)
class GraphIndex:
    """The counts of all structures of a split.

    Attributes
    ----------
    rows
        Atoms, known energies, known force vectors, and directed edges within each of `RADII` [G, 7], uint32; on disk,
        mapped.
    """

    rows: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.rows)

    def facts(self, graphs: Indices, cutoff: float | None) -> Facts:
        """Return what is known of ``graphs``; edges are exact at `RADII` and predicted elsewhere.

        Edges grow with the volume of the sphere in a crystal, so between two radii they are interpolated in the cube of
        the cutoff, and beyond the last extrapolated. Without a cutoff there are none.
        """
        rows = np.asarray(self.rows[graphs]).astype(np.int64)
        if cutoff is None:
            return Facts(rows[:, 0], np.zeros(len(rows), dtype=np.int64), rows[:, 1], rows[:, 2])
        volumes = np.array([0.0, *RADII]) ** 3
        upper = int(np.clip(np.searchsorted(volumes, cutoff**3), 1, len(RADII)))
        edges = np.concatenate([np.zeros((len(rows), 1), dtype=np.int64), rows[:, _FIXED:]], axis=1)
        part = (cutoff**3 - volumes[upper - 1]) / (volumes[upper] - volumes[upper - 1])
        nedges = np.rint(edges[:, upper - 1] + part * (edges[:, upper] - edges[:, upper - 1])).astype(np.int64)
        return Facts(rows[:, 0], nedges, rows[:, 1], rows[:, 2])


def index_file(label: Split) -> str:
    """Return the name of a split's index in the folder of its dataset."""
    return f"{label}.index.npy"


def count(
    columns: Columns,
    check: Callable[[], None] = lambda: None,
    keep: Callable[[Indices, Indices, Indices], None] | None = None,
    cutoff: float = 0.0,
) -> tuple[NDArray[np.uint32], Degrees]:
    """Return the rows of a `GraphIndex` and how many neighbours the atoms have.

    Parameters
    ----------
    columns
        The structures.
    check
        Called now and then; may raise to stop.
    keep
        Gets the edges of each structure by length: ends [E] and images [E, 3] of all pairs within ``cutoff`` and
        `CLOSE` more.
    cutoff
        Angstrom; needed with ``keep`` only.

    Raises
    ------
    DataError
        When a periodic cell has no volume.
    """
    rows = np.zeros((len(columns), _FIXED + len(RADII)), dtype=np.uint32)
    known = np.concatenate([[0], np.cumsum(~np.isnan(columns.forces).any(1))])
    rows[:, 0] = columns.natoms
    rows[:, 1] = ~np.isnan(columns.energy)
    rows[:, 2] = known[columns.offsets[1:]] - known[columns.offsets[:-1]]
    degrees = np.zeros((len(RADII), len(columns.numbers)), dtype=np.int64)
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
        for k, radius in enumerate(RADII):
            degrees[k, atoms] = np.bincount(src[distance < radius], minlength=last - first)
        rows[g, _FIXED:] = degrees[:, atoms].sum(axis=1)
    return rows, Degrees(tuple(np.bincount(d, minlength=1) for d in degrees))


@dataclass(frozen=True)
class Degrees:
    """How many atoms have 0, 1, 2 ... neighbours within each of `RADII`."""

    histograms: tuple[NDArray[np.int64], ...]

    @staticmethod
    def none() -> Degrees:
        """Return the degrees of no atoms."""
        return Degrees(tuple(np.zeros(1, dtype=np.int64) for _ in RADII))

    def __add__(self, other: Degrees) -> Degrees:
        pairs = zip(self.histograms, other.histograms, strict=True)
        return Degrees(tuple(_longer(a, b) for a, b in pairs))

    def statistics(self) -> tuple[NeighbourStatistics, ...]:
        """Return mean, mean of log(d + 1) (the scale of PNA, Corso et al., arXiv 2004.05718, eq. 5) and extremes."""
        return tuple(_statistics(r, h) for r, h in zip(RADII, self.histograms, strict=True))


def _statistics(radius: float, histogram: NDArray[np.int64]) -> NeighbourStatistics:
    degree, atoms = np.arange(len(histogram)), max(1, int(histogram.sum()))
    present = np.flatnonzero(histogram)
    return NeighbourStatistics(
        cutoff=radius,
        mean=float((degree * histogram).sum() / atoms),
        mean_log=float((np.log1p(degree) * histogram).sum() / atoms),
        minimum=int(present[0]) if len(present) else 0,
        maximum=int(present[-1]) if len(present) else 0,
        isolated=int(histogram[0]),
    )


def _longer(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.zeros(max(len(a), len(b)), dtype=np.int64)
    total[: len(a)] += a
    total[: len(b)] += b
    return total


class IndexWriter:
    """Writes the index of every split into the folder of a dataset while its structures pass by, and edges if asked.

    Parameters
    ----------
    folder
        Of the dataset.
    sizes
        Structures of each split.
    cutoff
        Edges within it (Angstrom) are stored; None: none are.

    Raises
    ------
    StorageError
        When the disk refuses.
    """

    def __init__(self, folder: Path, sizes: Mapping[Split, int], cutoff: float | None = None) -> None:
        self._folder, self._sizes, self._cutoff = folder, sizes, cutoff
        self._edges = None if cutoff is None else EdgeWriter(folder, sizes)
        self._open = ExitStack()
        self._done = dict.fromkeys(sizes, 0)
        self.degrees: dict[Split, Degrees] = {}

    def __enter__(self) -> IndexWriter:
        for label, n in self._sizes.items():
            path = self._folder / index_file(label)
            with storage_errors(path):
                # written, not mapped: a full disk answers a write with an error, and a mapping by killing the process
                np.save(path, np.zeros((n, _FIXED + len(RADII)), dtype=np.uint32))
        if self._edges is not None:
            self._open.enter_context(self._edges)
        return self

    def add(self, label: Split, columns: Columns, check: Callable[[], None] = lambda: None) -> None:
        """Take the next structures of ``label``; ``check`` as for `count`."""
        keep = None if self._edges is None else partial(self._edges.add, label)
        rows, degrees = count(columns, check, keep, self._cutoff or 0.0)
        self.put(label, rows)
        self.degrees[label] = self.degrees[label] + degrees if label in self.degrees else degrees

    def put(self, label: Split, rows: NDArray[np.uint32]) -> None:
        """Write the next rows of ``label`` [n, 7], which were counted before."""
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


def join_indexes(folder: Path, label: Split, parts: Sequence[Path]) -> None:
    """Write the index of a split into ``folder`` from those in ``parts``, end to end, a piece in memory at a time.

    Raises
    ------
    StorageError
        When the disk refuses.
    """
    pieces = [np.load(part / index_file(label), mmap_mode="r", allow_pickle=False) for part in parts]
    with IndexWriter(folder, {label: sum(len(piece) for piece in pieces)}) as index:
        for piece in pieces:
            for first in range(0, len(piece), _AT_ONCE):
                index.put(label, np.asarray(piece[first : first + _AT_ONCE]))


def read_index(folder: Path, label: Split, n: int) -> GraphIndex | None:
    """Map the index of a split of ``n`` structures; None when the folder has none.

    Raises
    ------
    IntegrityError
        When it is not an index of so many structures.
    """
    path = folder / index_file(label)
    if not path.exists():
        return None
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}.") from error
    if rows.dtype != np.uint32 or rows.shape != (n, _FIXED + len(RADII)):
        raise IntegrityError(f"{path} is not an index of {n} structures.", "Ingest the dataset again.")
    return GraphIndex(rows)
