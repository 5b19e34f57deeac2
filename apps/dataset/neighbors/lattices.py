"""Lattices of many structures at once: completed to a volume, their inverses, and the reach of a cutoff."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.core.errors import DataError

FLAT = 1e-8  # smallest volume of a cell, divided by the product of its lengths
NO_VOLUME = (
    "The lattice vectors of the periodic directions are linearly dependent or zero.",
    "Give a cell with a volume, or switch the periodic directions off.",
)


def lattices(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return lattices [G, 3, 3] with a volume: directions without periodicity get unit vectors normal to the others.

    Raises
    ------
    DataError
        When the periodic vectors of a structure are linearly dependent, zero or not finite.
    """
    if not np.isfinite(cell[pbc]).all():
        raise DataError(*NO_VOLUME)
    lattice = cell.copy()
    for pattern in np.unique(pbc, axis=0):
        where = np.flatnonzero((pbc == pattern).all(axis=1))
        free = np.flatnonzero(~pattern)
        if len(free) == 3:
            lattice[where] = np.eye(3)
        elif len(free):
            # the rows beyond the rank are normal to the periodic vectors
            basis = np.linalg.svd(cell[where][:, pattern])[2]
            lattice[np.ix_(where, free)] = basis[:, 3 - len(free) :]
    lengths = np.linalg.norm(lattice, axis=2).prod(axis=1)
    volume = np.abs(np.einsum("gi,gi->g", lattice[:, 0], np.cross(lattice[:, 1], lattice[:, 2])))
    if not (volume > FLAT * lengths).all():
        raise DataError(*NO_VOLUME)
    return lattice


def reaches(inverse: NDArray[np.float64], pbc: NDArray[np.bool_], cutoff: float) -> NDArray[np.float64]:
    """Return how many cells ``cutoff`` (Angstrom) reaches along each direction [G, 3]; 0 without periodicity."""
    # the distance of planes of the lattice is one over the length of a reciprocal vector
    found: NDArray[np.float64] = np.where(pbc, cutoff * np.linalg.norm(inverse, axis=1), 0.0)
    return found
