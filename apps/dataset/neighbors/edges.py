"""Edges of many structures: listed on demand, or selected from stored packed edges.

A packed edge is one integer of 64 bits: the image of ``dst`` along the three lattice vectors in its three lowest bytes
(signed), then 20 bits of ``dst`` and 20 of ``src``, both counted from the first atom of their structure. A structure's
edges are stored by length, so that those within a smaller cutoff are the first ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.half_lists import HalfList, half_lists, put_both_ways
from gfm_pipeline.apps.dataset.neighbors.neighbor_list import neighbour_list
from gfm_pipeline.apps.dataset.neighbors.small_systems import are_small, build_small
from gfm_pipeline.apps.dataset.store.columns import Columns, flat_ranges
from gfm_pipeline.core.errors import IntegrityError

ATOM_BITS = 20
LARGEST_IMAGE = 127
EDGE = np.dtype("<i8")
COUNT = np.dtype("<u4")
UNPACKED = np.iinfo(COUNT).max  # in place of a number of edges: an edge of the structure does not fit
# Angstrom. Rounding decides whether a pair at the cutoff itself is an edge, and lengths computed from stored edges are
# rounded in another way than those of the search. So pairs are stored up to this far beyond the cutoff, and structures
# with a pair within half of it are searched anew. Both roundings are smaller by four orders of magnitude.
CLOSE = 1e-6
_AT_ONCE = 1 << 15  # edges unpacked at a time
_AGAIN = "Ingest the dataset again."
_MASK = (1 << ATOM_BITS) - 1

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """Directed edges of G structures, end to end.

    Attributes
    ----------
    nedges
        Edges of each structure [G].
    src, dst
        Edge ends, counted from the structure's first atom [E], int64.
    shift
        Cartesian displacement of the image of ``dst`` [E, 3], Angstrom, float32.
    """

    nedges: Indices
    src: Indices
    dst: Indices
    shift: NDArray[np.float32]

    @staticmethod
    def none(graphs: int) -> Edges:
        """Return empty edges for a number of structures."""
        nothing = np.zeros(0, dtype=np.int64)
        return Edges(np.zeros(graphs, dtype=np.int64), nothing, nothing, np.zeros((0, 3), dtype=np.float32))


# Searches the pairs closer than a cutoff (Angstrom) of every structure, as `build_edges` does.
NeighborListFn: TypeAlias = Callable[[Columns, float], Edges]


@dataclass(frozen=True)
class Packed:
    """Packed edges of G structures, end to end.

    Attributes
    ----------
    counts
        Edges of each structure [G], uint32; `UNPACKED` when not stored.
    edges
        The packed edges [E], int64; within a structure sorted by length, the shortest first.
    cutoff
        All pairs closer than this (Angstrom) are present.
    path
        Their file.
    """

    counts: NDArray[np.uint32]
    edges: NDArray[np.int64]
    cutoff: float
    path: Path

    def starts(self) -> Indices:
        """Return the first edge of each structure, and E at the end [G + 1]."""
        counts = np.where(self.counts == UNPACKED, 0, self.counts)
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def pack(src: Indices, dst: Indices, image: Indices) -> NDArray[np.int64] | None:
    """Return edges [E] with images [E, 3] as integers [E]; None when an edge does not fit."""
    if not len(src):
        return np.zeros(0, dtype=EDGE)
    if max(src.max(), dst.max()) > _MASK or max(image.max(), -image.min()) > LARGEST_IMAGE:
        return None
    low = image & 0xFF
    packed = src << (24 + ATOM_BITS) | dst << 24 | low[:, 2] << 16 | low[:, 1] << 8 | low[:, 0]
    return packed.astype(EDGE, copy=False)


def unpack(packed: NDArray[np.int64]) -> tuple[Indices, Indices, NDArray[np.int8]]:
    """Return ``src``, ``dst`` [E] and ``image`` [E, 3] of packed edges [E]."""
    packed = np.ascontiguousarray(packed, dtype=EDGE)
    image = packed.view(np.int8).reshape(-1, EDGE.itemsize)[:, :3]
    return packed >> (24 + ATOM_BITS) & _MASK, packed >> 24 & _MASK, image


def build_edges(columns: Columns, cutoff: float) -> Edges:
    """List the pairs closer than ``cutoff`` (Angstrom) of every structure, each by its fastest method.

    The methods are all distances for molecules, joint searches for crystals, and linked cells for large structures.

    Raises
    ------
    DataError
        When a periodic cell has no volume.
    """
    small = are_small(columns.pbc, columns.natoms)
    molecules, others = np.flatnonzero(small), np.flatnonzero(~small)
    nedges, src, dst = build_small(columns.pos, columns.natoms, molecules, cutoff)
    listed = Edges(nedges[molecules], src, dst, np.zeros((len(src), 3), dtype=np.float32))
    if not len(others):
        return listed
    halves = list(half_lists(columns.pos, columns.cell, columns.pbc, columns.natoms, others, cutoff))
    together = np.concatenate([np.zeros(0, np.int64), *(half.graphs for half in halves)])
    rest = np.setdiff1d(others, together, assume_unique=True)
    parts = [(molecules, listed), (together, _both_ways(halves)), (rest, _search(columns.take(rest), cutoff))]
    return _joined([(graphs, edges) for graphs, edges in parts if len(graphs)])


def _both_ways(halves: Sequence[HalfList]) -> Edges:
    """Return the edges in both directions of the structures of half lists, in their order."""
    nedges = 2 * np.concatenate([np.zeros(0, np.int64), *(half.npairs for half in halves)])
    starts, first = np.cumsum(nedges) - nedges, 0
    total = int(nedges.sum())
    found = Edges(nedges, np.empty(total, np.int64), np.empty(total, np.int64), np.empty((total, 3), np.float32))
    for half in halves:
        last = first + len(half.graphs)
        put_both_ways(half, starts[first:last], found.src, found.dst, found.shift)
        first = last
    return found


def _search(columns: Columns, cutoff: float) -> Edges:
    if not len(columns):
        return Edges.none(0)
    nedges = np.zeros(len(columns), dtype=np.int64)
    parts = []
    for g in range(len(columns)):
        atoms = slice(columns.offsets[g], columns.offsets[g + 1])
        src, dst, image = neighbour_list(columns.pos[atoms], columns.cell[g], columns.pbc[g], cutoff)
        nedges[g] = len(src)
        parts.append((src, dst, image.astype(np.int32)))
    src, dst, images = (np.concatenate([part[k] for part in parts]) for k in range(3))
    shift = np.empty((len(src), 3), dtype=np.float32)
    fill_shifts(images, columns.cell, nedges, shift)
    return Edges(nedges, src, dst, shift)


def select_edges(columns: Columns, packed: Packed, cutoff: float, neighbor_list: NeighborListFn = build_edges) -> Edges:
    """Select the stored edges of ``columns`` shorter than ``cutoff``, the same edges as from ``neighbor_list``.

    The order of a structure's edges differs. ``neighbor_list`` searches structures without stored edges, and structures
    with a pair so close to the cutoff that rounding would decide.

    Parameters
    ----------
    columns
        The structures.
    packed
        Their edges.
    cutoff
        Angstrom, at most that of ``packed``.
    neighbor_list
        Searches structures whose stored edges do not suffice.

    Raises
    ------
    IntegrityError
        When the edges belong to other structures.
    DataError
        When a periodic cell has no volume.
    """
    starts = packed.starts()
    counts, unsure = _shorter(columns, packed, starts, cutoff)
    unsure |= packed.counts == UNPACKED
    nedges = np.where(unsure, 0, counts)
    ends = np.concatenate([[0], np.cumsum(nedges)])
    src, dst = np.empty(ends[-1], dtype=np.int64), np.empty(ends[-1], dtype=np.int64)
    shift, first = np.empty((ends[-1], 3), dtype=np.float32), 0
    while first < len(columns):  # by pieces, whose intermediate arrays stay in the cache
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + _AT_ONCE, side="right")) - 1)
        graphs, here = slice(first, last), slice(ends[first], ends[last])
        edges = packed.edges[flat_ranges(starts[graphs], nedges[graphs])]
        src[here], dst[here], image = unpack(edges)
        _check_ends(packed, src[here], dst[here], np.repeat(columns.natoms[graphs], nedges[graphs]))
        fill_shifts(image, columns.cell[graphs], nedges[graphs], shift[here])
        first = last
    chosen = Edges(nedges, src, dst, shift)
    sure, rest = np.flatnonzero(~unsure), np.flatnonzero(unsure)
    if not len(rest):
        return chosen
    return _joined([(sure, replace(chosen, nedges=nedges[sure])), (rest, neighbor_list(columns.take(rest), cutoff))])


def check_edges(columns: Columns, packed: Packed) -> None:
    """Check that stored edges can belong to ``columns``: valid atoms, sorted by length, none beyond the cutoff.

    Raises
    ------
    IntegrityError
        When they cannot belong to them.
    """
    starts = packed.starts()
    for g in range(len(columns)):
        here = np.arange(starts[g], starts[g + 1])
        length = _lengths(columns, packed, here, np.full(len(here), g))
        _check_longest(packed, length)
        if (np.diff(length) < -CLOSE / 2).any():
            raise IntegrityError(f"{packed.path} has edges that are not in the order of their lengths.", _AGAIN)


def _check_longest(packed: Packed, length: NDArray[np.float64]) -> None:
    if not (length < packed.cutoff + 2 * CLOSE).all():
        raise IntegrityError(f"{packed.path} has edges that are not within {packed.cutoff:g} Angstrom.", _AGAIN)


def _shorter(columns: Columns, packed: Packed, starts: Indices, cutoff: float) -> tuple[Indices, NDArray[np.bool_]]:
    """Return how many edges of each structure are shorter than ``cutoff`` [G], and for which rounding would decide.

    Edges are sorted by length, so this is a bisection over all structures at once.
    """
    low, high = np.zeros(len(columns), dtype=np.int64), np.diff(starts)
    last = np.flatnonzero(high)
    _check_longest(packed, _lengths(columns, packed, starts[last + 1] - 1, last))
    while len(open_ := np.flatnonzero(low < high)):
        middle = (low[open_] + high[open_]) // 2
        shorter = _lengths(columns, packed, starts[open_] + middle, open_) < cutoff - CLOSE / 2
        low[open_] = np.where(shorter, middle + 1, low[open_])
        high[open_] = np.where(shorter, high[open_], middle)
    unsure = np.zeros(len(columns), dtype=np.bool_)
    more = np.flatnonzero(low < np.diff(starts))
    unsure[more] = _lengths(columns, packed, starts[more] + low[more], more) < cutoff + CLOSE / 2
    return low, unsure


def _lengths(columns: Columns, packed: Packed, edges: Indices, graph: Indices) -> NDArray[np.float64]:
    """Return the lengths (Angstrom) of the edges at ``edges`` [E], which belong to structures ``graph`` [E]."""
    src, dst, image = unpack(packed.edges[edges])
    _check_ends(packed, src, dst, columns.natoms[graph])
    atom, cell = columns.offsets[graph], columns.cell[graph].astype(np.float64)
    vector = columns.pos[atom + dst].astype(np.float64) - columns.pos[atom + src] + np.einsum("ei,eij->ej", image, cell)
    length: NDArray[np.float64] = np.sqrt(np.einsum("ei,ei->e", vector, vector))
    return length


def _check_ends(packed: Packed, src: Indices, dst: Indices, natoms: Indices) -> None:
    if (np.maximum(src, dst) >= natoms).any():
        raise IntegrityError(f"{packed.path} has edges between atoms that its structures have not.", _AGAIN)


def fill_shifts(
    image: NDArray[np.signedinteger], cell: NDArray[np.float32], nedges: Indices, shift: NDArray[np.float32]
) -> None:
    """Fill in the displacements [E, 3] of images [E, 3] in the cells [G, 3, 3] of structures with ``nedges`` [G].

    Cells and displacements are in Angstrom; sums are made in float64.
    """
    lattice, images = cell.astype(np.float64), [image[:, k].astype(np.float64) for k in range(3)]
    for k in range(3):  # axis by axis: arrays of one dimension are several times faster than of three
        along = images[0] * np.repeat(lattice[:, 0, k], nedges)
        along += images[1] * np.repeat(lattice[:, 1, k], nedges)
        along += images[2] * np.repeat(lattice[:, 2, k], nedges)
        shift[:, k] = along


def _joined(parts: Sequence[tuple[Indices, Edges]]) -> Edges:
    """Return the edges of all structures, in order, from those of some structures each."""
    if len(parts) == 1:
        return parts[0][1]
    graphs = np.concatenate([graphs for graphs, _ in parts])
    names = ("nedges", "src", "dst", "shift")
    nedges, src, dst, shift = (np.concatenate([getattr(edges, name) for _, edges in parts]) for name in names)
    place = np.argsort(graphs)
    order = flat_ranges((np.cumsum(nedges) - nedges)[place], nedges[place])
    return Edges(nedges[place], src.take(order), dst.take(order), shift.take(order, axis=0))
