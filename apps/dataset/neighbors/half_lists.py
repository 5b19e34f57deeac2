"""Half neighbour lists of many crystals, slabs and larger molecules at once: each pair is found in one direction.

A compiled search starts anew for each structure, and its results need as many conversions to edges. Here common arrays
hold the atoms of many structures and their images within reach. One matrix product in float32 gives all squared
distances of a structure and selects pairs with a margin far above its rounding. Lengths in float64, as in other
searches, make the final decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.lattices import lattices, reaches
from gfm_pipeline.apps.dataset.store.columns import flat_ranges

MOST_PAIRS = 1 << 19  # atoms times images of one structure: with more, linked cells are faster
_ATOMS, _COPIES = 1 << 12, 1 << 13  # atoms and images searched together: their arrays stay in the cache
_BLOCK = 3 << 14  # distances of one product: so few that the library uses one thread
_LONGEST = 1e5  # Angstrom: float32 holds squares of such lengths
_WIDE = 1.25  # cells: atoms spread over more cells are moved into one
_FARTHEST = 2.0**30  # cells: int32 holds them
_ROUND = 1e-9  # cells: tolerance for rounding
_MARGIN = 4e-6  # of the largest squared distance from the middle: several times the rounding of float32

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Copies:
    """Images of atoms [K], structure by structure, ``ncopies`` [M] of each; ``points`` are [3, K], ``image`` [K, 3].

    The first copies of a structure are its atoms. Only one of an image and its reverse is present.
    """

    ncopies: Indices
    atom: Indices
    image: NDArray[np.int32]
    points: Floats


@dataclass(frozen=True)
class HalfList:
    """Pairs of atoms of some structures, each once; the other direction has the image and the shift reversed.

    Attributes
    ----------
    graphs
        The structures [M], ascending.
    natoms, npairs
        Atoms and pairs of each [M]; pairs of a structure follow each other.
    src, dst
        Atoms, counted from the first of their structure [P].
    copy
        Index of the image of ``dst`` in ``copies`` [P].
    points, home
        Positions of the atoms [3, N] (Angstrom), and the cells from which they were moved [N, 3]; None: not moved.
    copies
        The images of atoms in the search.
    lattice
        Lattice vectors with a volume [M, 3, 3] (Angstrom).
    """

    graphs: Indices
    natoms: Indices
    npairs: Indices
    src: Indices
    dst: Indices
    copy: Indices
    points: Floats
    home: NDArray[np.int32] | None
    copies: Copies
    lattice: Floats

    def first(self) -> Indices:
        """Return the place of the first atom of each pair's structure [P]."""
        return np.repeat(np.cumsum(self.natoms) - self.natoms, self.npairs)

    def distances(self) -> Floats:
        """Return the length of each pair [P] in Angstrom."""
        return _distances(self.points, self.copies.points, self.src + self.first(), self.copy)

    def images(self) -> NDArray[np.int32]:
        """Return the cell of ``dst`` of each pair [P, 3]."""
        found = self.copies.image.take(self.copy, axis=0)
        if self.home is not None:
            first = self.first()
            found += self.home.take(first + self.src, axis=0)
            found -= self.home.take(first + self.dst, axis=0)
        return found

    def shifts(self) -> NDArray[np.float32]:
        """Return the displacement of the image of ``dst`` of each pair [P, 3] in Angstrom."""
        if self.home is None:
            table = _in_basis(self.copies.image.T.astype(np.float64), self.lattice, self.copies.ncopies)
            return table.T.astype(np.float32).take(self.copy, axis=0)
        return _in_basis(self.images().T.astype(np.float64), self.lattice, self.npairs).T.astype(np.float32)


@dataclass(frozen=True)
class _PlacedAtoms:
    """Structures end to end, prepared for a search.

    ``graphs`` [M], ``natoms`` [M] and ``start`` [M] say which; ``lattice`` [M, 3, 3] has a volume, ``pbc`` [M, 3] are
    the periodic directions. ``points`` [3, N] are positions (Angstrom), moved by ``home`` cells [3, N] where that is
    not None, and ``fractional`` [3, N] the same in lattice vectors, ``low`` and ``high`` [M, 3] their bounds, ``reach``
    [M, 3] what the cutoff reaches beyond.
    """

    graphs: Indices
    natoms: Indices
    start: Indices
    lattice: Floats
    pbc: NDArray[np.bool_]
    points: Floats
    home: Floats | None
    fractional: Floats
    low: Floats
    high: Floats
    reach: Floats

    def copies(self) -> Floats:
        """Return the approximate number of images of atoms in one half of the cutoff's reach [M]."""
        found: Floats = self.natoms * (1.0 + np.where(self.pbc, self.high - self.low + 2 * self.reach, 1.0).prod(1)) / 2
        return found

    def suited(self) -> NDArray[np.bool_]:
        """Return which structures are small enough for all distances [M]."""
        lengths = np.linalg.norm(self.lattice, axis=2)
        short = ((self.high - self.low + self.reach) * lengths < _LONGEST).all(axis=1)
        suited: NDArray[np.bool_] = short & (self.natoms * self.copies() < MOST_PAIRS)
        if self.home is not None:
            suited &= np.maximum.reduceat(np.abs(self.home).max(axis=0), self.start) < _FARTHEST
        return suited


def half_lists(
    pos: NDArray[np.floating],
    cell: NDArray[np.floating],
    pbc: NDArray[np.bool_],
    natoms: Indices,
    which: Indices,
    cutoff: float,
) -> Iterator[HalfList]:
    """Yield the pairs closer than a cutoff, for some structures at a time; too large structures are left out.

    Parameters
    ----------
    pos, cell, pbc, natoms
        Positions [N, 3] and lattice vectors as rows [G, 3, 3] in Angstrom, periodic directions [G, 3], and atoms [G].
    which
        The requested structures [M], ascending.
    cutoff
        Angstrom.

    Raises
    ------
    DataError
        When the periodic vectors of a structure are linearly dependent, zero or not finite.
    """
    which = which[natoms[which] > 0]
    offsets = np.cumsum(natoms) - natoms
    for graphs in _runs(which, natoms[which].astype(np.float64), _ATOMS):
        atoms = flat_ranges(offsets[graphs], natoms[graphs])
        with np.errstate(invalid="ignore", over="ignore"):  # of unsuited positions
            placed = _place(pos.take(atoms, axis=0), cell[graphs], pbc[graphs], natoms[graphs], graphs, cutoff)
            suited = np.flatnonzero(placed.suited())
        for some in _runs(suited, placed.copies()[suited], _COPIES):
            yield _search(placed, some, cutoff)


def _runs(items: Indices, costs: Floats, most: float) -> Iterator[Indices]:
    """Yield runs of items within a common cost limit, or single items."""
    ends, first = np.cumsum(costs), 0
    while first < len(items):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] - costs[first] + most, side="right")))
        yield items[first:last]
        first = last


def _place(
    pos: NDArray[np.floating],
    cell: NDArray[np.floating],
    pbc: NDArray[np.bool_],
    natoms: Indices,
    graphs: Indices,
    cutoff: float,
) -> _PlacedAtoms:
    lattice = lattices(cell.astype(np.float64), pbc)
    inverse: Floats = np.linalg.inv(lattice).astype(np.float64, copy=False)
    start = np.cumsum(natoms) - natoms
    points, home = np.ascontiguousarray(pos.T, dtype=np.float64), None
    fractional = _in_basis(points, inverse, natoms)
    low, high = _bounds(fractional, start)
    wide = pbc & ~(high - low < _WIDE)
    if wide.any():
        home = np.where(np.repeat(wide, natoms, axis=0).T, np.floor(fractional), 0.0)
        points = points - _in_basis(home, lattice, natoms)
        fractional = _in_basis(points, inverse, natoms)
        low, high = _bounds(fractional, start)
    reach = reaches(inverse, pbc, cutoff)
    return _PlacedAtoms(graphs, natoms, start, lattice, pbc, points, home, fractional, low, high, reach)


def _bounds(fractional: Floats, start: Indices) -> tuple[Floats, Floats]:
    return np.minimum.reduceat(fractional, start, axis=1).T, np.maximum.reduceat(fractional, start, axis=1).T


def _in_basis(coefficients: Floats, basis: Floats, natoms: Indices) -> Floats:
    """Return ``coefficients`` [3, N] times the rows of each structure's basis [M, 3, 3], [3, N]."""
    found = np.empty_like(coefficients)
    for axis in range(3):
        along = coefficients[0] * np.repeat(basis[:, 0, axis], natoms)
        along += coefficients[1] * np.repeat(basis[:, 1, axis], natoms)
        along += coefficients[2] * np.repeat(basis[:, 2, axis], natoms)
        found[axis] = along
    return found


def _search(placed: _PlacedAtoms, some: Indices, cutoff: float) -> HalfList:
    """Return the pairs of some placed structures."""
    natoms = placed.natoms[some]
    atoms = flat_ranges(placed.start[some], natoms)
    points, fractional = placed.points[:, atoms], placed.fractional[:, atoms]
    copies = _copies(placed, some, points, fractional)
    src, copy, npairs = _near(points, copies, natoms, cutoff)
    graph = np.repeat(np.arange(len(some)), npairs)
    src -= (np.cumsum(natoms) - natoms).take(graph)
    home = None if placed.home is None else placed.home[:, atoms].T.astype(np.int32)
    dst, graphs, lattice = copies.atom.take(copy), placed.graphs[some], placed.lattice[some]
    return HalfList(graphs, natoms, npairs, src, dst, copy, points, home, copies, lattice)


def put_both_ways(half: HalfList, starts: Indices, src: Indices, dst: Indices, shift: NDArray[np.float32]) -> None:
    """Write both directions of all pairs into ``src``, ``dst`` [E] and ``shift`` [E, 3], from its start on."""
    shifts, end = half.shifts(), 0
    for n, start in zip(half.npairs.tolist(), starts.tolist(), strict=True):
        pairs, there, back = slice(end, end + n), slice(start, start + n), slice(start + n, start + 2 * n)
        src[there], dst[there], shift[there] = half.src[pairs], half.dst[pairs], shifts[pairs]
        src[back], dst[back] = half.dst[pairs], half.src[pairs]
        np.subtract(0.0, shifts[pairs], out=shift[back])  # and no negative zeros
        end += n


def _distances(points: Floats, copies: Floats, src: Indices, copy: Indices) -> Floats:
    """Return the distances of atoms from images [P]."""
    square = np.zeros(len(src))
    for axis in range(3):
        apart = copies[axis].take(copy)
        apart -= points[axis].take(src)
        apart *= apart
        square += apart
    return np.sqrt(square, out=square)


def _copies(placed: _PlacedAtoms, some: Indices, points: Floats, fractional: Floats) -> Copies:
    """Return the atoms of some structures and their images within reach; of an image and its reverse only one."""
    natoms, reach, pbc = placed.natoms[some], placed.reach[some] + _ROUND, placed.pbc[some]
    low, high = placed.low[some] - reach, placed.high[some] + reach
    graph = np.repeat(np.arange(len(some)), natoms)
    own = atom = np.arange(len(graph))
    ahead = np.zeros(len(graph), dtype=np.bool_)  # whether the image is positive: its reverse is not
    images = np.zeros((3, len(graph)))
    for axis in np.flatnonzero(pbc.any(axis=0)).tolist():
        along, periodic = fractional[axis].take(atom), pbc[:, axis].take(graph)
        first = np.where(periodic, np.ceil(low[:, axis].take(graph) - along), 0.0)
        last = np.where(periodic, np.floor(high[:, axis].take(graph) - along), 0.0)
        first = np.where(ahead, first, np.maximum(first, 0.0)).astype(np.int64)
        many = np.maximum(last.astype(np.int64) - first + 1, 0)
        atom, graph, ahead = np.repeat(atom, many), np.repeat(graph, many), np.repeat(ahead, many)
        images = np.repeat(images, many, axis=1)
        images[axis] = np.arange(len(atom)) - np.repeat(np.cumsum(many) - many - first, many)
        ahead |= images[axis] > 0
    others = np.flatnonzero(ahead)
    ncopies = np.bincount(graph[others], minlength=len(some))
    # the atoms themselves, then their images, structure by structure
    start = np.stack([np.cumsum(natoms) - natoms, len(own) + np.cumsum(ncopies) - ncopies], axis=1)
    order = flat_ranges(start.ravel(), np.stack([natoms, ncopies], axis=1).ravel())
    atom = np.concatenate([own, atom.take(others)]).take(order)
    images = np.concatenate([np.zeros((3, len(own))), images.take(others, axis=1)], axis=1).take(order, axis=1)
    ncopies += natoms
    moved = _in_basis(images, placed.lattice[some], ncopies)
    moved += points.take(atom, axis=1)
    atom -= np.repeat(np.cumsum(natoms) - natoms, ncopies)
    return Copies(ncopies, atom, images.T.astype(np.int32), moved)


def _near(points: Floats, copies: Copies, natoms: Indices, cutoff: float) -> tuple[Indices, Indices, Indices]:
    """Return atoms and images [P] closer than the cutoff, and the number of pairs of each structure [M]."""
    starts, firsts = np.cumsum(natoms) - natoms, np.cumsum(copies.ncopies) - copies.ncopies
    here, there = _factors(points, copies, natoms)
    margins = _MARGIN * (np.maximum.reduceat(there[4], firsts) + cutoff * cutoff)
    rows = np.maximum(1, _BLOCK // copies.ncopies)
    space = np.empty(int(max(_BLOCK, copies.ncopies.max())), dtype=np.float32)
    src, copy, npairs = [], [], np.zeros(len(natoms), dtype=np.int64)
    sizes = zip(*(each.tolist() for each in (natoms, starts, copies.ncopies, firsts, rows, margins)), strict=True)
    for k, (n, start, m, first, step, margin) in enumerate(sizes):
        once = _upper(1 << n.bit_length())[:, :n]
        for row in range(0, n, step):
            block = here[start + row : start + min(row + step, n)]
            square = np.matmul(block, there[:, first : first + m], out=space[: len(block) * m].reshape(-1, m))
            square[:, :n] += once[row : row + len(block)]
            flat = square.ravel()
            near = np.flatnonzero(flat < cutoff * cutoff + margin)
            value = flat.take(near)
            atom = near // m
            near -= atom * m
            near += first
            atom += start + row
            if len(value) and value.max() > cutoff * cutoff - margin:  # rounding would decide
                far = np.flatnonzero(value > cutoff * cutoff - margin)
                exact = _distances(points, copies.points, atom.take(far), near.take(far))
                keep = np.ones(len(near), dtype=np.bool_)
                keep[far] = exact < cutoff
                near, atom = near[keep], atom[keep]
            src.append(atom)
            copy.append(near)
            npairs[k] += len(near)
    return np.concatenate(src), np.concatenate(copy), npairs


def _factors(points: Floats, copies: Copies, natoms: Indices) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the factors of the matrix of squared distances of atoms from images: [N, 5] and [5, K]."""
    middle = np.add.reduceat(points, np.cumsum(natoms) - natoms, axis=1) / natoms
    here = np.ones((points.shape[1], 5), dtype=np.float32)
    there = np.ones((5, copies.points.shape[1]), dtype=np.float32)
    here[:, :3] = (points - np.repeat(middle, natoms, axis=1)).T
    here[:, 3] = np.einsum("ai,ai->a", here[:, :3], here[:, :3])
    there[:3] = copies.points - np.repeat(middle, copies.ncopies, axis=1)
    there[4] = np.einsum("ia,ia->a", there[:3], there[:3])
    there[:3] *= -2.0
    return here, there


@lru_cache(maxsize=16)
def _upper(n: int) -> NDArray[np.float32]:
    """Return zeros above the diagonal [n, n] and infinity elsewhere, which keeps one direction of each pair."""
    return np.where(np.tri(n, dtype=np.bool_), np.float32(np.inf), np.float32(0.0))
