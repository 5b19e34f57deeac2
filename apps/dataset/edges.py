"""Edges of many structures: listed when they are asked for, or chosen from packed ones that were listed before.

A packed edge is one integer of 64 bits: the image of ``dst`` along the three lattice vectors in its three lowest bytes
(signed), then 20 bits of ``dst`` and 20 of ``src``, both counted from the first atom of their structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.columns import Columns, flat_ranges
from gfm_pipeline.apps.dataset.neighbours import neighbour_list
from gfm_pipeline.common.errors import IntegrityError

ATOM_BITS = 20
LARGEST_IMAGE = 127
EDGE = np.dtype("<i8")
COUNT = np.dtype("<u4")
UNPACKED = np.iinfo(COUNT).max  # in place of a number of edges: the structure has one that does not fit
# Angstrom. Rounding decides whether a pair at the cutoff itself is an edge, and lengths computed from stored edges are
# rounded in another way than those of the search. So pairs are stored up to this far beyond the cutoff, and structures
# with a pair within half of it are searched anew. Both roundings are smaller by four orders of magnitude.
CLOSE = 1e-6
_AT_ONCE = 1 << 16  # edges chosen from at a time: their vectors stay in the cache
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
        """Return no edges of so many structures."""
        nothing = np.zeros(0, dtype=np.int64)
        return Edges(np.zeros(graphs, dtype=np.int64), nothing, nothing, np.zeros((0, 3), dtype=np.float32))


@dataclass(frozen=True)
class Packed:
    """Packed edges of G structures, end to end.

    Attributes
    ----------
    counts
        Edges of each structure [G], uint32; `UNPACKED` where there are none stored.
    edges
        The packed edges [E], int64.
    cutoff
        All pairs closer than this are there (Angstrom).
    path
        The file they are from.
    """

    counts: NDArray[np.uint32]
    edges: NDArray[np.int64]
    cutoff: float
    path: Path


def pack(src: Indices, dst: Indices, image: Indices) -> NDArray[np.int64] | None:
    """Return edges [E] with images [E, 3] as integers [E]; None when one of them does not fit."""
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


def list_edges(columns: Columns, cutoff: float) -> Edges:
    """Search the pairs closer than ``cutoff`` (Angstrom) of every structure.

    Raises
    ------
    DataError
        When a periodic cell has no volume.
    """
    if not len(columns):
        return Edges.none(0)
    nedges = np.zeros(len(columns), dtype=np.int64)
    parts = []
    for g in range(len(columns)):
        atoms = slice(columns.offsets[g], columns.offsets[g + 1])
        src, dst, image = neighbour_list(columns.pos[atoms], columns.cell[g], columns.pbc[g], cutoff)
        nedges[g] = len(src)
        parts.append((src, dst, image.astype(np.int16)))
    src, dst, images = (np.concatenate([part[k] for part in parts]) for k in range(3))
    graph = np.repeat(np.arange(len(columns)), nedges)
    return Edges(nedges, src, dst, _shift(images, columns.cell.astype(np.float64), graph).astype(np.float32))


def select_edges(columns: Columns, packed: Packed, cutoff: float) -> Edges:
    """Choose from the stored edges of ``columns`` those shorter than ``cutoff``: the edges of `list_edges`.

    The order of a structure's edges is another one. Structures without stored edges, and those with a pair so close to
    the cutoff that rounding would decide, are searched.

    Parameters
    ----------
    columns
        The structures.
    packed
        Their edges.
    cutoff
        Angstrom, at most that of ``packed``.

    Raises
    ------
    IntegrityError
        When the edges are not those of these structures.
    DataError
        When a periodic cell has no volume.
    """
    again = packed.counts == UNPACKED
    nedges, parts = np.zeros(len(columns), dtype=np.int64), []
    for piece in _pieces(columns, packed):
        graph, mine = piece.graph, slice(piece.first, piece.last)
        again[graph[np.abs(piece.length - cutoff) < CLOSE / 2]] = True
        keep = np.flatnonzero((piece.length < cutoff) & ~again[graph])
        nedges[mine] = np.bincount(graph[keep] - piece.first, minlength=piece.last - piece.first)
        parts.append(Edges(nedges[mine], piece.src[keep], piece.dst[keep], piece.shift[keep].astype(np.float32)))
    chosen = _joined(parts) if parts else Edges.none(0)
    rest = np.flatnonzero(again)
    return _merged(chosen, rest, list_edges(columns.take(rest), cutoff)) if len(rest) else chosen


def check_edges(columns: Columns, packed: Packed) -> None:
    """Look whether stored edges can be those of ``columns``: between their atoms, and no longer than the cutoff.

    Raises
    ------
    IntegrityError
        When they cannot.
    """
    for _ in _pieces(columns, packed):
        pass


@dataclass(frozen=True)
class _Piece:
    """Stored edges [E] of structures ``first`` to ``last``, their structures, shifts [E, 3] and lengths (Angstrom)."""

    first: int
    last: int
    graph: Indices
    src: Indices
    dst: Indices
    shift: NDArray[np.float64]
    length: NDArray[np.float64]


def _pieces(columns: Columns, packed: Packed) -> Iterator[_Piece]:
    """Yield `_AT_ONCE` edges at most, or those of one structure, in order; raises `IntegrityError`."""
    counts = np.where(packed.counts == UNPACKED, 0, packed.counts).astype(np.int64)
    starts, cell = np.concatenate([[0], np.cumsum(counts)]), columns.cell.astype(np.float64)
    first, again = 0, "Ingest the dataset again."
    while first < len(columns):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _AT_ONCE, side="right")) - 1)
        graph = np.repeat(np.arange(first, last), counts[first:last])
        src, dst, image = unpack(packed.edges[starts[first] : starts[last]])
        if (np.maximum(src, dst) >= columns.natoms[graph]).any():
            raise IntegrityError(f"{packed.path} has edges between atoms that its structures have not.", again)
        shift, atom = _shift(image, cell, graph), columns.offsets[graph]
        vector = columns.pos[atom + dst].astype(np.float64) - columns.pos[atom + src] + shift
        length = np.sqrt(np.einsum("ei,ei->e", vector, vector))
        if not (length < packed.cutoff + 2 * CLOSE).all():
            raise IntegrityError(f"{packed.path} has edges longer than {packed.cutoff:g} Angstrom.", again)
        yield _Piece(first, last, graph, src, dst, shift, length)
        first = last


def _shift(image: NDArray[np.signedinteger], cell: NDArray[np.float64], graph: Indices) -> NDArray[np.float64]:
    """Return the displacements [E, 3] that go with ``image`` [E, 3] in the cells [G, 3, 3] of their structures."""
    return np.asarray(np.einsum("ei,eij->ej", image, cell[graph]), dtype=np.float64)


def _joined(parts: list[Edges]) -> Edges:
    if len(parts) == 1:
        return parts[0]
    return Edges(
        np.concatenate([p.nedges for p in parts]),
        np.concatenate([p.src for p in parts]),
        np.concatenate([p.dst for p in parts]),
        np.concatenate([p.shift for p in parts]),
    )


def _merged(chosen: Edges, rest: Indices, listed: Edges) -> Edges:
    """Put the edges ``listed`` of the structures ``rest``, which have none in ``chosen``, at their places."""
    both = _joined([chosen, listed])
    nedges, start = chosen.nedges.copy(), np.cumsum(chosen.nedges) - chosen.nedges
    nedges[rest] = listed.nedges
    start[rest] = len(chosen.src) + np.cumsum(listed.nedges) - listed.nedges
    order = flat_ranges(start, nedges)
    return Edges(nedges, both.src[order], both.dst[order], both.shift[order])
