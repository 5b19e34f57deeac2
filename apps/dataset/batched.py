"""Neighbour lists of many structures at once, on the device models are trained on.

All pairs of all structures are tried together, in plain tensor operations, so the same code runs on NVIDIA, AMD and
Intel GPUs. A GPU tries billions of pairs a second; where a structure alone has too many, it goes to the linked cells
of `gfm_pipeline.apps.dataset.neighbours`. Edges are the same as that module's, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.apps.dataset.neighbours import FLAT, NO_VOLUME, neighbour_list
from gfm_pipeline.common.errors import DataError

PAIRS = 1 << 22  # pairs that are tried at once; each takes about 150 bytes
_ROUND = 1e-9  # of a height of the cell: what rounding may hide


@dataclass(frozen=True)
class Edges:
    """Directed edges of G structures, end to end.

    Attributes
    ----------
    n
        Edges of each structure [G].
    src, dst
        Ends, counted from the structure's first atom [E].
    image
        Cell of ``dst`` [E, 3]: the edge vector is ``pos[dst] - pos[src] + image @ cell``.
    """

    n: NDArray[np.int64]
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    image: NDArray[np.int16]

    @staticmethod
    def join(parts: list[Edges]) -> Edges:
        """Return the edges of the structures of all ``parts``, in order."""
        if len(parts) == 1:
            return parts[0]
        none = np.zeros(0, np.int64)
        return Edges(
            np.concatenate([none, *(p.n for p in parts)]),
            np.concatenate([none, *(p.src for p in parts)]),
            np.concatenate([none, *(p.dst for p in parts)]),
            np.concatenate([np.zeros((0, 3), np.int16), *(p.image for p in parts)]),
        )


def list_each(columns: Columns, cutoff: float) -> Edges:
    """List neighbours one structure after the other, on the CPU.

    Raises
    ------
    DataError
        When a periodic cell has no volume.
    """
    parts = []
    for g in range(len(columns)):
        atoms = slice(columns.offsets[g], columns.offsets[g + 1])
        src, dst, image = neighbour_list(columns.pos[atoms], columns.cell[g], columns.pbc[g], cutoff)
        parts.append(Edges(np.array([len(src)]), src, dst, image.astype(np.int16)))
    return Edges.join(parts)


class ListBatched:
    """Lists neighbours of many structures at once on a device.

    Parameters
    ----------
    device
        Where; ordered beside what else the device does.
    pairs
        Pairs that are tried at once; a structure with more goes to the CPU.
    """

    def __init__(self, device: torch.device, pairs: int = PAIRS) -> None:
        self._device, self._pairs = device, pairs
        module: Any = None if device.type == "cpu" else torch.get_device_module(device)
        # a stream of its own: whoever lists ahead must not wait for the step that is computed meanwhile
        self._stream: Any = None if module is None else module.Stream(device)
        self._within: Any = nullcontext if module is None else module.stream

    def __call__(self, columns: Columns, cutoff: float) -> Edges:
        """List all ordered pairs closer than ``cutoff`` (Angstrom), with all images.

        Raises
        ------
        DataError
            When a periodic cell has no volume.
        """
        lattice = lattices(columns.cell.astype(np.float64), columns.pbc)
        inverse = np.linalg.inv(lattice).astype(np.float64)
        # the distance of planes of the lattice is one over the length of a reciprocal vector
        reach = np.ceil(cutoff * np.linalg.norm(inverse, axis=1) + _ROUND).astype(np.int64)
        reach[~columns.pbc] = 0
        tries = columns.natoms**2 * (2 * reach + 1).prod(axis=1)
        parts = []
        with self._beside():
            for first, last in _portions(tries, self._pairs):
                part = columns.take(np.arange(first, last))
                if last - first == 1 and tries[first] > self._pairs:
                    parts.append(list_each(part, cutoff))
                else:
                    these = slice(first, last)
                    parts.append(self._list(part, lattice[these], inverse[these], reach[these], cutoff))
        return Edges.join(parts)

    def _beside(self) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = self._within(self._stream)
        return context

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _list(
        self,
        columns: Columns,
        lattice: NDArray[np.float64],
        inverse: NDArray[np.float64],
        reach: NDArray[np.int64],
        cutoff: float,
    ) -> Edges:
        natoms = self._on_device(columns.natoms)
        cell, periodic = self._on_device(lattice), self._on_device(columns.pbc)
        spans = self._on_device(reach)
        of_atom = torch.repeat_interleave(natoms)
        pos = self._on_device(columns.pos).double()
        fractional = torch.einsum("ni,nij->nj", pos, self._on_device(inverse)[of_atom])
        home = torch.where(periodic[of_atom], torch.floor(fractional), 0.0)  # the cell each atom is in
        wrapped = pos - torch.einsum("ni,nij->nj", home, cell[of_atom])
        widths = 2 * spans + 1
        images = widths.prod(1)
        tries = natoms**2 * images
        of_pair = torch.repeat_interleave(tries)
        number = torch.arange(len(of_pair), device=self._device) - (torch.cumsum(tries, 0) - tries)[of_pair]
        pair, copy = _divide(number, images[of_pair])
        src, dst = _divide(pair, natoms[of_pair])
        first = (torch.cumsum(natoms, 0) - natoms)[of_pair]
        rest, z = _divide(copy, widths[of_pair, 2])
        x, y = _divide(rest, widths[of_pair, 1])
        moved = torch.stack([x, y, z], 1) - spans[of_pair]
        vector = wrapped[first + dst] - wrapped[first + src]
        vector += torch.einsum("ei,eij->ej", moved.double(), cell[of_pair])
        itself = (src == dst) & (moved == 0).all(1)
        keep = torch.nonzero((torch.linalg.vector_norm(vector, dim=1) < cutoff) & ~itself).squeeze(1)
        src, dst, first = src[keep], dst[keep], first[keep]
        image = moved[keep] + (home[first + src] - home[first + dst]).long()
        n = torch.bincount(of_pair[keep], minlength=len(natoms))
        return Edges(n.cpu().numpy(), src.cpu().numpy(), dst.cpu().numpy(), image.to(torch.int16).cpu().numpy())


def _divide(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder of numbers that are not negative."""
    quotient = torch.div(a, b, rounding_mode="floor")
    return quotient, a - quotient * b


def _portions(tries: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Yield first and end of runs of structures that have at most ``limit`` pairs together, or are one."""
    ends = np.cumsum(tries)
    first = 0
    while first < len(tries):
        before = int(ends[first] - tries[first])
        last = max(first + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield first, last
        first = last


def lattices(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return lattices [G, 3, 3] with a volume: directions that are not periodic get unit vectors normal to the others.

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
