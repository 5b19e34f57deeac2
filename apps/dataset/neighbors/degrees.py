"""Numbers of neighbours of atoms within some radii, counted once, when structures are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.half_lists import HalfList, half_lists
from gfm_pipeline.apps.dataset.neighbors.neighbor_list import pairs_within
from gfm_pipeline.apps.dataset.neighbors.small_systems import are_small, count_small
from gfm_pipeline.apps.dataset.store.columns import flat_ranges
from gfm_pipeline.core.contracts.dataset_statistics import NeighbourStatistics

RADII = (3.0, 4.0, 5.0, 6.0)  # Angstrom; edges at other cutoffs are interpolated


def degrees_of(
    pos: NDArray[Any], cell: NDArray[Any], pbc: NDArray[np.bool_], natoms: NDArray[np.int64]
) -> NDArray[np.uint16]:
    """Return the number of neighbours of each atom within each of `RADII` [N, R].

    Positions [N, 3] and cells [G, 3, 3] are rounded to float32 as in datasets, so that the degrees match the stored
    structures.

    Raises
    ------
    DataError
        When the periodic cell has no volume.
    """
    pos, cell = pos.astype(np.float32), cell.astype(np.float32)
    degrees = np.zeros((len(pos), len(RADII)), dtype=np.uint16)
    small, ends = are_small(pbc, natoms), np.cumsum(natoms)
    count_small(pos, natoms, np.flatnonzero(small), RADII, degrees)
    rest = ~small
    for half in half_lists(pos, cell, pbc, natoms, np.flatnonzero(rest), RADII[-1]):
        rest[half.graphs] = False
        atoms = flat_ranges(ends[half.graphs] - half.natoms, half.natoms)
        degrees[atoms] = degrees_of_pairs(half)
    for g in np.flatnonzero(rest).tolist():
        one = slice(int(ends[g] - natoms[g]), int(ends[g]))
        src, _, _, distance = pairs_within(pos[one], cell[g], pbc[g], RADII[-1])
        degrees[one] = degrees_from(src, distance, int(natoms[g]))
    return degrees


def degrees_from(src: NDArray[np.int64], distance: NDArray[np.float64], natoms: int) -> NDArray[np.uint16]:
    """Return the numbers of neighbours within each of `RADII` [N, R], from all edges [E] in both directions."""
    return _counted((src,), distance, natoms)


def degrees_of_pairs(half: HalfList) -> NDArray[np.uint16]:
    """Return the numbers of neighbours within each of `RADII` [N, R], from all pairs within the largest or more."""
    first = half.first()
    return _counted((first + half.src, first + half.dst), half.distances(), int(half.natoms.sum()))


def _counted(ends: tuple[NDArray[np.int64], ...], distance: NDArray[np.float64], natoms: int) -> NDArray[np.uint16]:
    """Return how often each atom is an end [P] of a pair shorter than each of `RADII` [N, R]."""
    shell = np.zeros(len(distance), dtype=np.int64)  # the smallest radius that contains the pair
    for radius in RADII:
        shell += distance >= radius
    shells = len(RADII) + 1
    found = np.zeros(natoms * shells, dtype=np.int64)
    for atoms in ends:
        found += np.bincount(atoms * shells + shell, minlength=len(found))
    return found.reshape(natoms, shells).cumsum(axis=1)[:, :-1].astype(np.uint16)


@dataclass(frozen=True)
class Degrees:
    """The numbers of atoms with 0, 1, 2 ... neighbours within each of `RADII`."""

    histograms: tuple[NDArray[np.int64], ...]

    @staticmethod
    def none() -> Degrees:
        """Return the degrees of no atoms."""
        return Degrees(tuple(np.zeros(1, dtype=np.int64) for _ in RADII))

    @staticmethod
    def of(degrees: NDArray[np.uint16]) -> Degrees:
        """Return how often each number occurs in the degrees of atoms [N, R]."""
        return Degrees(tuple(np.bincount(degrees[:, k], minlength=1) for k in range(len(RADII))))

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
