"""Neighbour lists by brute force, and cells that are hard for those who search faster."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from gfm_pipeline.apps.dataset import GraphTable
from gfm_pipeline.apps.dataset.neighbors.edges import Edges


def brute_force(
    pos: np.ndarray[Any, Any], cell: np.ndarray[Any, Any], pbc: np.ndarray[Any, Any], cutoff: float
) -> np.ndarray[Any, Any]:
    """Return i, j and image [E, 5] of all pairs inside the cutoff, from all distances to enough images."""
    repeats, home = np.zeros(3, dtype=int), np.zeros((len(pos), 3), dtype=int)
    if pbc.any():
        to_fractional = np.linalg.pinv(cell[pbc])
        home[:, pbc] = np.floor(pos @ to_fractional).astype(int)  # the cell each atom is in
        repeats[pbc] = np.ceil(cutoff * np.linalg.norm(to_fractional, axis=0)).astype(int) + 1
    images = np.stack(np.meshgrid(*[np.arange(-k, k + 1) for k in repeats], indexing="ij"), -1).reshape(-1, 3)
    vectors = np.where(pbc[:, None], cell, 0.0)
    wrapped = pos - home @ vectors
    distance = np.linalg.norm(wrapped[None, :, None] - wrapped[:, None, None] + images @ vectors, axis=-1)
    i, j, k = np.nonzero(distance < cutoff)
    edges = np.column_stack([i, j, images[k] + home[i] - home[j]])
    return edges[(i != j) | edges[:, 2:].any(axis=1)]


def in_order(edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return edges sorted, to compare sets."""
    return edges[np.lexsort(edges.T)]


def edge_sets(found: Edges | GraphTable) -> list[list[tuple[Any, ...]]]:
    """Return the edges of each structure in one order, shifts as they are to the bit."""
    rows = list(zip(found.src.tolist(), found.dst.tolist(), map(tuple, found.shift.tolist()), strict=True))
    return [sorted(rows[a:b]) for a, b in pairwise([0, *np.cumsum(found.nedges).tolist()])]


def random_lattices(n: int) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """Yield skewed, thin and long cells, of one atom or some, atoms anywhere, and all mixes of periodic directions."""
    rng = np.random.default_rng(3)
    while n:
        cell = rng.normal(size=(3, 3)) * rng.choice([1.5, 4.0, 9.0], size=(3, 1))
        if abs(np.linalg.det(cell)) < 0.08 * np.prod(np.linalg.norm(cell, axis=1)):
            continue
        pbc = np.array([n & 1, n & 2, n & 4], dtype=bool)
        if rng.random() < 0.3:
            cell[~pbc] = 0.0
        if rng.random() < 0.2:
            cell[0] *= -1.0  # left-handed
        pos = rng.normal(size=(int(rng.integers(1, 6)), 3)) * rng.choice([1.0, 6.0]) + 20 * rng.normal(size=3)
        n -= 1
        yield pos, cell, pbc
