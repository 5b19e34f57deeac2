"""Neighbours of atoms scattered over a box far too large for their number, by SciPy's k-d tree.

Time and memory depend on the atoms, their images within the cutoff, and the pairs found, not on the box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Indices = NDArray[np.int64]


def pairs_of_scattered(
    points: NDArray[np.float64], lattice: NDArray[np.float64], periodic: NDArray[np.bool_], cutoff: float
) -> tuple[Indices, Indices, Indices, NDArray[np.float64]]:
    """Find all ordered pairs closer than a cutoff, with all images.

    Parameters
    ----------
    points
        Positions [N, 3] in Angstrom, along the periodic directions about one cell wide.
    lattice, periodic
        Lattice vectors as rows [3, 3], and which of them repeat [3].
    cutoff
        Angstrom.

    Returns
    -------
    src, dst, image, distance
        As of `gfm_pipeline.apps.dataset.neighbors.neighbor_list.pairs_within`, by ``src``, then ``dst``.
    """
    copied, image = _copies(points, lattice, periodic, cutoff)
    there = points.take(copied, axis=0) + image @ lattice
    found = cKDTree(points).sparse_distance_matrix(cKDTree(there), cutoff, output_type="ndarray")
    src, copy = found["i"].astype(np.int64), found["j"].astype(np.int64)
    dst, image, distance = copied.take(copy), image.take(copy, axis=0), found["v"].astype(np.float64)
    keep = (distance < cutoff) & ((src != dst) | image.any(axis=1))
    order = np.flatnonzero(keep)
    order = order[np.lexsort((*image[order].T, dst[order], src[order]))]
    return src[order], dst[order], image[order], distance[order]


def _copies(
    points: NDArray[np.float64], lattice: NDArray[np.float64], periodic: NDArray[np.bool_], cutoff: float
) -> tuple[Indices, Indices]:
    """Return the atoms [M] and images [M, 3] that may be within ``cutoff`` of an atom."""
    inverse = np.linalg.inv(lattice)
    fractional = points @ inverse
    # the distance of planes of the lattice is one over the length of a reciprocal vector
    reach = cutoff * np.linalg.norm(inverse, axis=0) + 1e-9
    copied = np.arange(len(points))
    image = np.zeros((len(points), 3), dtype=np.int64)
    for axis in np.flatnonzero(periodic).tolist():
        along = fractional[:, axis]
        low, high = float(along.min()) - reach[axis], float(along.max()) + reach[axis]
        first = np.ceil(low - along).astype(np.int64)[copied]
        many = np.floor(high - along).astype(np.int64)[copied] - first + 1
        starts = np.cumsum(many) - many
        step = np.arange(int(many.sum())) - np.repeat(starts, many) + np.repeat(first, many)
        copied, image = np.repeat(copied, many), np.repeat(image, many, axis=0)
        image[:, axis] = step
    return copied, image
