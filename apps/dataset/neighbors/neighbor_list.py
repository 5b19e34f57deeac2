"""Neighbour lists on the CPU for molecules, slabs and crystals of any shape, and atoms anywhere.

The search is pymatgen's compiled linked-cell code, the fastest of the kept libraries for crystals of many atoms and as
fast as any for molecules (``benchmarks/neighbours.py``). Its time and memory grow with the box around the atoms. So
this module first moves atoms far outside their cell into it and reduces very skewed cells. SciPy's k-d tree searches
atoms scattered over a large box. The cost then depends on the atoms and their edges only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from gfm_pipeline.apps.dataset.neighbors.lattices import FLAT, NO_VOLUME
from gfm_pipeline.core.errors import DataError

_SELF = 1e-8  # Angstrom: an atom and itself in the same image
_SKEWED = 0.05  # volume over the product of lengths: below, the lattice is reduced (0.15 in rhombohedral Bi2Te3)
_AROUND = 1  # cells that an atom may be outside its own before atoms are moved; up to here the search is equally fast
_FARTHEST = 2.0**52  # cells: beyond this, a float64 cannot resolve the position within a cell
_BALL = (1.0, 2.0, math.pi, 4.0 / 3.0 * math.pi)  # times cutoff**n: length, area or volume within the cutoff
_MOST_IMAGES = 20_000  # of an atom within the cutoff: 0.05 cubic Angstrom per cell at 6 Angstrom
# linked cells (300 bytes each) of a search, in addition to 64 per atom
_LINKED_CELLS, _PER_ATOM = 32_768, 64

Indices = NDArray[np.int64]
Pairs = tuple[Indices, Indices, Indices, NDArray[np.float64]]


def neighbour_list(
    pos: NDArray[np.floating], cell: NDArray[np.floating], pbc: NDArray[np.bool_], cutoff: float
) -> tuple[Indices, Indices, Indices]:
    """Find all ordered pairs closer than ``cutoff``.

    Parameters
    ----------
    pos
        Positions [N, 3] in Angstrom; they may lie outside the cell at any distance.
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
        When periodic lattice vectors are linearly dependent or much too short, or positions are not numbers.
    """
    src, dst, image, _ = pairs_within(pos, cell, pbc, cutoff)
    return src, dst, image


def pairs_within(pos: NDArray[np.floating], cell: NDArray[np.floating], pbc: NDArray[np.bool_], cutoff: float) -> Pairs:
    """Return the result of `neighbour_list`, and the length of each edge [E] in Angstrom."""
    points = np.ascontiguousarray(pos, dtype=np.float64)
    periodic = [bool(flag) for flag in pbc]
    lattice = _lattice(points, np.asarray(cell, dtype=np.float64), periodic, cutoff)
    _check_images(np.asarray(cell, dtype=np.float64)[periodic], cutoff)
    moved = None
    if any(periodic) and len(points):
        moved = _moved(points, lattice, periodic)
    if moved is None:
        return _search(points, lattice.vectors, periodic, cutoff)
    src, dst, image, distance = _search(moved.points, moved.vectors, periodic, cutoff)
    image += moved.home.take(src, axis=0)
    image -= moved.home.take(dst, axis=0)
    image = image @ moved.of_lattice
    image[:, ~np.array(periodic)] = 0
    return src, dst, image, distance


def _check_images(vectors: NDArray[np.float64], cutoff: float) -> None:
    """Refuse a cell so small that the list of its atoms' images would take all memory; ``vectors``: periodic [n, 3]."""
    measure = math.sqrt(max(0.0, float(np.linalg.det(vectors @ vectors.T)))) if len(vectors) else math.inf
    images = _BALL[len(vectors)] * cutoff ** len(vectors) / measure if measure > 0.0 else math.inf
    if images > _MOST_IMAGES:
        raise DataError(
            f"The cell is too small: each atom has {images:,.3g} images of itself within {cutoff:g} Angstrom.",
            "Correct the cell, or its unit.",
        )


def shortest_period(cell: NDArray[np.floating], pbc: NDArray[np.bool_], below: float = math.inf) -> float:
    """Return the distance (Angstrom) of an atom from the nearest of its own images.

    It is infinite without periodicity, or when a quick estimate shows that it is not less than ``below``.

    Raises
    ------
    DataError
        When periodic lattice vectors are linearly dependent.
    """
    periodic = [bool(flag) for flag in pbc]
    if not any(periodic):
        return math.inf
    lattice = _lattice(np.zeros((0, 3)), np.asarray(cell, dtype=np.float64), periodic, 0.0)
    lengths = [math.hypot(*row) for row in lattice.vectors[np.array(periodic)].tolist()]
    if min(lengths) * lattice.fullness >= below:  # planes of the lattice are at least so far apart
        return math.inf
    vectors, _ = _reduced(lattice.vectors, periodic)
    return float(np.linalg.norm(vectors[np.array(periodic)], axis=1).min())


@dataclass(frozen=True)
class _Lattice:
    """Lattice vectors as rows [3, 3] (Angstrom), their inverse, and the volume over the product of their lengths."""

    vectors: NDArray[np.float64]
    inverse: NDArray[np.float64]
    fullness: float


@dataclass(frozen=True)
class _Moved:
    """Points [N, 3] moved into the cell ``vectors`` [3, 3] that they were ``home`` [N, 3] cells away from.

    ``of_lattice`` [3, 3] are the vectors in those of the lattice that was given.
    """

    points: NDArray[np.float64]
    vectors: NDArray[np.float64]
    home: Indices
    of_lattice: Indices


def _moved(points: NDArray[np.float64], lattice: _Lattice, periodic: list[bool]) -> _Moved | None:
    """Return points within their cell, and a cell without skew; None if no change is needed."""
    fractional = points @ lattice.inverse
    low, high = fractional.min(axis=0).tolist(), fractional.max(axis=0).tolist()
    far = any(p and not (a >= -_AROUND and b < _AROUND + 1) for p, a, b in zip(periodic, low, high, strict=True))
    if not far and lattice.fullness >= _SKEWED:
        return None
    vectors, of_lattice = _reduced(lattice.vectors, periodic) if lattice.fullness < _SKEWED else (lattice.vectors, None)
    whole = np.floor(points @ np.linalg.inv(vectors))
    whole[:, ~np.array(periodic)] = 0.0
    if not np.abs(whole).max() < _FARTHEST:
        raise DataError("A position is not a number, or too large to say where in its cell it is.")
    turned = np.eye(3, dtype=np.int64) if of_lattice is None else of_lattice
    return _Moved(np.ascontiguousarray(points - whole @ vectors), vectors, whole.astype(np.int64), turned)


def _reduced(vectors: NDArray[np.float64], periodic: list[bool]) -> tuple[NDArray[np.float64], Indices]:
    """Return the shortest vectors [3, 3] of a lattice, and their coefficients in the given vectors [3, 3]."""
    from ase.geometry.minkowski_reduction import minkowski_reduce

    try:
        shortest, turned = minkowski_reduce(vectors, periodic)
    except RuntimeError:  # by rounding, where vectors are of very different lengths
        return vectors, np.eye(3, dtype=np.int64)
    return np.ascontiguousarray(shortest, dtype=np.float64), np.asarray(turned, dtype=np.int64)


def _search(points: NDArray[np.float64], vectors: NDArray[np.float64], periodic: list[bool], cutoff: float) -> Pairs:
    if len(points):
        spans = (points.max(axis=0) - points.min(axis=0)).tolist()
        linked = math.prod(span / cutoff + 2.0 for span in spans)
        if linked > _LINKED_CELLS + _PER_ATOM * len(points):
            from gfm_pipeline.apps.dataset.neighbors.scattered import pairs_of_scattered

            return pairs_of_scattered(points, vectors, np.array(periodic), cutoff)
    src, dst, cells, distance = find_points_in_spheres(
        points, points, r=float(cutoff), pbc=np.array(periodic, dtype=np.int64), lattice=vectors, tol=_SELF
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


def _lattice(points: NDArray[np.float64], cell: NDArray[np.float64], periodic: list[bool], cutoff: float) -> _Lattice:
    """Return a lattice with the periodic vectors of ``cell``; the other vectors are long and normal to these."""
    if all(periodic):
        lattice = np.ascontiguousarray(cell)
    else:
        extent = float((points.max(axis=0) - points.min(axis=0)).max()) if len(points) else 0.0
        length = 2.0 * (extent + cutoff) + 1.0
        if not any(periodic):
            return _Lattice(np.eye(3) * length, np.eye(3) / length, 1.0)
        lattice, fixed = np.array(cell, order="C"), np.array(periodic)
        _, _, basis = np.linalg.svd(cell[fixed])
        lattice[~fixed] = basis[int(fixed.sum()) :] * length
    # in plain floats: the overhead of numpy would be larger than this computation
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = lattice.tolist()
    across = (
        (by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx),
        (cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax),
        (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx),
    )
    volume = ax * across[0][0] + ay * across[0][1] + az * across[0][2]
    scale = math.hypot(ax, ay, az) * math.hypot(bx, by, bz) * math.hypot(cx, cy, cz)
    if not abs(volume) > FLAT * scale or not math.isfinite(scale):
        raise DataError(*NO_VOLUME)
    return _Lattice(lattice, np.array(across).T / volume, abs(volume) / scale)
