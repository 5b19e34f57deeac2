"""What is known of every structure without reading it: its size, its labels, and how many neighbours it has.

Sharing a batch between ranks needs sizes and numbers of labels of all its structures, whoever reads them. So ingest
counts once, and keeps 28 bytes a structure beside the atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.contracts.data import NeighbourStatistics, Split
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.apps.dataset.neighbours import pairs_within
from gfm_pipeline.common.errors import IntegrityError
from gfm_pipeline.common.publish import storage_errors

RADII = (3.0, 4.0, 5.0, 6.0)  # Angstrom; edges at other cutoffs are interpolated
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

    def facts(self, graphs: Indices, cutoff: float) -> Facts:
        """Return what is known of ``graphs``; edges are exact at `RADII` and predicted elsewhere.

        Edges grow with the volume of the sphere in a crystal, so between two radii they are interpolated in the cube of
        the cutoff, and beyond the last extrapolated.
        """
        rows = np.asarray(self.rows[graphs]).astype(np.int64)
        volumes = np.array([0.0, *RADII]) ** 3
        upper = int(np.clip(np.searchsorted(volumes, cutoff**3), 1, len(RADII)))
        edges = np.concatenate([np.zeros((len(rows), 1), dtype=np.int64), rows[:, _FIXED:]], axis=1)
        part = (cutoff**3 - volumes[upper - 1]) / (volumes[upper] - volumes[upper - 1])
        nedges = np.rint(edges[:, upper - 1] + part * (edges[:, upper] - edges[:, upper - 1])).astype(np.int64)
        return Facts(rows[:, 0], nedges, rows[:, 1], rows[:, 2])


def index_file(label: Split) -> str:
    """Return the name of a split's index in the folder of its dataset."""
    return f"{label}.index.npy"


def count(columns: Columns, check: Callable[[], None] = lambda: None) -> tuple[GraphIndex, Degrees]:
    """Count atoms, labels and neighbours of every structure.

    Parameters
    ----------
    columns
        The structures.
    check
        Called now and then; may raise to stop.

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
    histograms = [np.zeros(1, dtype=np.int64) for _ in RADII]
    for g in range(len(columns)):
        if g % 256 == 0:
            check()
        atoms = slice(columns.offsets[g], columns.offsets[g + 1])
        src, _, _, distance = pairs_within(columns.pos[atoms], columns.cell[g], columns.pbc[g], RADII[-1])
        for k, radius in enumerate(RADII):
            degree = np.bincount(src[distance < radius], minlength=int(columns.natoms[g]))
            rows[g, _FIXED + k] = degree.sum()
            found = np.bincount(degree, minlength=len(histograms[k]))
            found[: len(histograms[k])] += histograms[k]
            histograms[k] = found
    return GraphIndex(rows), Degrees(tuple(histograms))


@dataclass(frozen=True)
class Degrees:
    """How many atoms have 0, 1, 2 ... neighbours within each of `RADII`."""

    histograms: tuple[NDArray[np.int64], ...]

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


def write_indices(folder: Path, indices: Mapping[Split, GraphIndex]) -> None:
    """Write the index of every split into the folder of a dataset; raises StorageError when the disk refuses."""
    for label, index in indices.items():
        path = folder / index_file(label)
        with storage_errors(path):
            np.save(path, index.rows)


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
