"""Neighbour lists on the CPU for molecules, slabs and crystals of any shape.

The search is pymatgen's compiled linked-cell code, the fastest of the kept libraries for crystals of many
atoms and as fast as any for molecules (``benchmarks/neighbours.py``).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from gfm_pipeline.core.errors import DataError

FLAT = 1e-8  # volume of a cell over the product of its lengths: below, it has none
NO_VOLUME = (
    "The lattice vectors of the periodic directions are linearly dependent or zero.",
    "Give a cell with a volume, or switch the periodic directions off.",
)
_SELF = 1e-8  # Angstrom: an atom and itself in the same image


def neighbour_list(
    pos: NDArray[np.floating], cell: NDArray[np.floating], pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find all ordered pairs closer than ``cutoff``.

    Parameters
    ----------
    pos
        Positions [N, 3] in Angstrom; they may lie outside the cell.
    cell
        Lattice vectors as rows [3, 3]; rows of directions that are not periodic are ignored.
    pbc
        Periodic directions [3].
    cutoff
        Angstrom.

    Returns
    -------
    src, dst, image
        Atom indices [E] and the cell of ``dst`` [E, 3]: the edge vector is
        ``pos[dst] - pos[src] + image @ cell``. Both directions of a pair are listed, and all its images.

    Raises
    ------
    DataError
        When periodic lattice vectors are linearly dependent.
    """
    src, dst, image, _ = pairs_within(pos, cell, pbc, cutoff)
    return src, dst, image


def pairs_within(
    pos: NDArray[np.floating], cell: NDArray[np.floating], pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return what `neighbour_list` does, and the length of each edge [E] in Angstrom."""
    points = np.ascontiguousarray(pos, dtype=np.float64)
    periodic = [bool(flag) for flag in pbc]
    lattice = _lattice(points, np.asarray(cell, dtype=np.float64), periodic, cutoff)
    src, dst, cells, distance = find_points_in_spheres(
        points, points, r=float(cutoff), pbc=np.array(periodic, dtype=np.int64), lattice=lattice, tol=_SELF
    )
    # lattice vectors are longer than the tolerance: an atom at no distance from itself is in the same image
    keep = np.flatnonzero((distance < cutoff) & ((src != dst) | (distance > _SELF)))
    image = np.zeros((len(keep), 3), dtype=np.int64)
    for k in (k for k in range(3) if periodic[k]):
        image[:, k] = cells[:, k].take(keep)
    return (
        src.take(keep).astype(np.int64, copy=False),
        dst.take(keep).astype(np.int64, copy=False),
        image,
        distance.take(keep),
    )


def _lattice(
    points: NDArray[np.float64], cell: NDArray[np.float64], periodic: list[bool], cutoff: float
) -> NDArray[np.float64]:
    """Return a lattice whose vectors are those of ``cell`` where periodic, else long and normal to them."""
    if all(periodic):
        lattice = np.ascontiguousarray(cell)
    else:
        extent = float((points.max(axis=0) - points.min(axis=0)).max()) if len(points) else 0.0
        length = 2.0 * (extent + cutoff) + 1.0
        if not any(periodic):
            return np.array([[length, 0.0, 0.0], [0.0, length, 0.0], [0.0, 0.0, length]])
        lattice, fixed = np.array(cell, order="C"), np.array(periodic)
        _, _, basis = np.linalg.svd(cell[fixed])
        lattice[~fixed] = basis[int(fixed.sum()) :] * length
    # in plain floats: numpy takes longer to begin than this takes
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = lattice.tolist()
    volume = abs(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx))
    scale = math.hypot(ax, ay, az) * math.hypot(bx, by, bz) * math.hypot(cx, cy, cz)
    if not volume > FLAT * scale or not math.isfinite(scale):
        raise DataError(*NO_VOLUME)
    return lattice
