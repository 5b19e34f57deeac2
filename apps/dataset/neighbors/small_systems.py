"""Neighbours in many molecules at once: one array holds all distances of molecules of one size.

A search per structure has an overhead; for few atoms the overhead is larger than the cost of all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.columns import flat_ranges

SMALL = 96  # atoms up to which all pairs are tested
_AT_ONCE = 1 << 15  # pairs; their arrays stay in the cache

Indices = NDArray[np.int64]


def are_small(pbc: NDArray[np.bool_], natoms: Indices) -> NDArray[np.bool_]:
    """Return which structures are small molecules, suited to this module [G]."""
    small: NDArray[np.bool_] = ~pbc.any(axis=1) & (natoms <= SMALL)
    return small


def build_small(
    pos: NDArray[np.float32], natoms: Indices, which: Indices, cutoff: float
) -> tuple[Indices, Indices, Indices]:
    """List the ordered pairs closer than ``cutoff`` (Angstrom) of structures without periodicity.

    Parameters
    ----------
    pos, natoms
        Positions [N, 3] in Angstrom, and atoms of each structure [G].
    which
        The structures to list [M], ascending.
    cutoff
        Angstrom.

    Returns
    -------
    nedges
        Edges of each structure [G], 0 for structures not listed.
    src, dst
        Ends, counted from the structure's first atom [E]; structures in order, and by ``src``, then ``dst`` in each.
    """
    nedges = np.zeros(len(natoms), dtype=np.int64)
    listed: list[Indices] = []
    pairs: list[tuple[Indices, Indices]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for n, graphs, distance in _distances(pos, natoms, which):
        src, dst = np.divmod(np.arange(n * n), max(1, n))
        near = distance.reshape(len(graphs), n * n) < cutoff
        nedges[graphs] = np.count_nonzero(near, axis=1)
        place = np.flatnonzero(near) % max(1, n * n)
        pairs.append((src.take(place), dst.take(place)))
        listed.append(graphs)
    src, dst = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    if len(listed) > 1:
        order = np.concatenate(listed)
        start = np.zeros(len(natoms), dtype=np.int64)
        start[order] = np.cumsum(nedges[order]) - nedges[order]
        edges = flat_ranges(start[which], nedges[which])
        src, dst = src.take(edges), dst.take(edges)
    return nedges, src, dst


def count_small(
    pos: NDArray[np.float32], natoms: Indices, which: Indices, radii: tuple[float, ...], degrees: NDArray[np.uint16]
) -> None:
    """Fill in how many neighbours the atoms of the structures ``which`` [M] have within each radius; [N, R] in all."""
    offsets = np.cumsum(natoms) - natoms
    for n, graphs, distance in _distances(pos, natoms, which):
        atoms = offsets[graphs][:, None] + np.arange(n)
        for k, radius in enumerate(radii):
            degrees[atoms, k] = np.count_nonzero(distance < radius, axis=2)


def _distances(
    pos: NDArray[np.float32], natoms: Indices, which: Indices
) -> Iterator[tuple[int, Indices, NDArray[np.float64]]]:
    """Yield, for some structures ``which`` of one size: the size, their numbers [M], and all distances [M, n, n].

    An atom is infinitely far from itself.
    """
    offsets = np.cumsum(natoms) - natoms
    for n in np.unique(natoms[which]).tolist():
        of_size, own = which[natoms[which] == n], np.arange(n)
        step = max(1, _AT_ONCE // max(1, n * n))
        for graphs in (of_size[k : k + step] for k in range(0, len(of_size), step)):
            atoms = offsets[graphs][:, None] + own
            square = np.zeros((len(graphs), n, n))
            for axis in range(3):
                along = pos[:, axis].take(atoms).astype(np.float64)
                apart = along[:, None, :] - along[:, :, None]
                square += apart * apart
            square[:, own, own] = np.inf
            yield n, graphs, np.sqrt(square)
