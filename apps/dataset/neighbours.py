"""Neighbour lists on the CPU for molecules, slabs and crystals of any shape.

The search is pymatgen's compiled linked-cell code: on structures of about 8 atoms it does 42,000 to
60,000 lists a second on one core at 5 Angstrom, against 26,000 to 57,000 for vesin and 7,000 to
33,000 for a dense numpy search.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from gfm_pipeline.common.errors import DataError

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
    periodic = np.asarray(pbc, dtype=bool)
    lattice = _lattice(points, np.asarray(cell, dtype=np.float64), periodic, cutoff)
    src, dst, image, distance = find_points_in_spheres(
        points, points, r=float(cutoff), pbc=periodic.astype(np.int64), lattice=lattice, tol=_SELF
    )
    keep = (distance < cutoff) & ((src != dst) | (image != 0).any(axis=1))
    image = image[keep].astype(np.int64)
    image[:, ~periodic] = 0
    return src[keep].astype(np.int64), dst[keep].astype(np.int64), image, distance[keep]


def _lattice(
    points: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_], cutoff: float
) -> NDArray[np.float64]:
    """Return a lattice whose vectors are those of ``cell`` where periodic, else long and normal to them."""
    lattice = np.array(cell, dtype=np.float64, order="C")
    if not periodic.all():
        extent = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
        length = 2.0 * (extent + cutoff) + 1.0
        _, _, basis = np.linalg.svd(cell[periodic]) if periodic.any() else (None, None, np.eye(3))
        lattice[~periodic] = basis[int(periodic.sum()) :] * length
    scale = float(np.prod(np.linalg.norm(lattice, axis=1)))
    if not abs(np.linalg.det(lattice)) > 1e-8 * scale or not np.isfinite(scale):
        raise DataError(
            "The lattice vectors of the periodic directions are linearly dependent or zero.",
            "Give a cell with a volume, or switch the periodic directions off.",
        )
    return lattice
