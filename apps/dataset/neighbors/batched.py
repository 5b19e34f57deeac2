"""Neighbour lists of many structures at once, on the training device.

Plain tensor operations test all pairs of all structures together, so that the same code serves NVIDIA, AMD and Intel
GPUs; it has been run on CPUs only. The work grows with the square of a structure's atoms. A structure with too many
pairs goes to the linked cells of `gfm_pipeline.apps.dataset.neighbors.neighbor_list`. Edges are those of that module,
in another order, but for pairs at the cutoff itself, where rounding decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfm_pipeline.apps.dataset.neighbors.edges import Edges, NeighborListFn, build_edges, fill_shifts
from gfm_pipeline.apps.dataset.neighbors.lattices import lattices, reaches
from gfm_pipeline.apps.dataset.store.columns import Columns

PAIRS = 1 << 21  # pairs tested at once; each takes about 220 bytes on the device
_ROUND = 1e-9  # of a height of the cell: tolerance for rounding
_MANY = 2.0**40  # pairs: more than any device tests at once; their sums do not overflow


def neighbor_list_on(device: torch.device) -> NeighborListFn:
    """Return the function that lists neighbours for a program on ``device``: on the CPU `build_edges`."""
    return build_edges if device.type == "cpu" else BatchedNeighborList(device)


class BatchedNeighborList:
    """Lists neighbours of many structures at once on a device; a `NeighborListFn` that several threads may share.

    A structure's edges and their order do not depend on the other structures of the call.

    Parameters
    ----------
    device
        Device of the search; it must support float64.
    pairs
        Pairs tested at once; a structure with more goes to the CPU.
    """

    def __init__(self, device: torch.device, pairs: int = PAIRS) -> None:
        self._device, self._pairs = device, pairs
        module: Any = None if device.type == "cpu" else torch.get_device_module(device)
        # A stream of its own: who lists ahead must not wait for the step that is computed meanwhile. It is safe, since
        # - which stream is current is each thread's own affair: the thread that trains keeps its own. A stream may be
        #   given work by any thread and does it in order (c10/cuda/CUDAStream.h);
        # - copies to the device, kernels and copies back are all on this stream. None is `non_blocking`, so each copy
        #   returns when the stream has done it (`memcpy_and_sync` in c10/cuda/CUDAFunctions.h): arrays may be freed
        #   after the one, and are whole after the other;
        # - no tensor is handed to another stream, and the allocator gives freed memory to this one alone again.
        self._stream: Any = None if module is None else module.Stream(device)
        self._within: Any = nullcontext if module is None else module.stream

    def __call__(self, columns: Columns, cutoff: float) -> Edges:
        """List all ordered pairs closer than ``cutoff`` (Angstrom), with all images.

        Raises
        ------
        DataError
            When a periodic cell has no volume.
        """
        lattice, inverse, reach = _images(columns, cutoff)
        tries = _tries(columns, reach)
        parts = []
        with self._beside():
            for first, last in _portions(tries, self._pairs):
                part = columns.take(np.arange(first, last))
                if last - first == 1 and tries[first] > self._pairs:
                    parts.append(build_edges(part, cutoff))
                else:
                    these = slice(first, last)
                    parts.append(self._list(part, lattice[these], inverse[these], reach[these], cutoff))
        return _joined(parts)

    def _beside(self) -> AbstractContextManager[object]:
        # one per call: it stores the previous current stream, which differs between threads
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
        fractional = _in_basis(pos, self._on_device(inverse), of_atom)
        home = torch.where(periodic[of_atom], torch.floor(fractional), 0.0)  # the cell each atom is in
        wrapped = pos - _in_basis(home, cell, of_atom)
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
        vector += _in_basis(moved, cell, of_pair)
        itself = (src == dst) & (moved == 0).all(1)
        keep = torch.nonzero((torch.linalg.vector_norm(vector, dim=1) < cutoff) & ~itself).squeeze(1)
        src, dst, first = src[keep], dst[keep], first[keep]
        image = (moved[keep] + (home[first + src] - home[first + dst]).long()).to(torch.int32).cpu().numpy()
        nedges = torch.bincount(of_pair[keep], minlength=len(natoms)).cpu().numpy()
        shift = np.empty((len(image), 3), dtype=np.float32)
        fill_shifts(image, columns.cell, nedges, shift)
        return Edges(nedges, src.cpu().numpy(), dst.cpu().numpy(), shift)


def pairs_tried(columns: Columns, cutoff: float) -> NDArray[np.int64]:
    """Return the number of tested pairs of atoms and images per structure [G] within ``cutoff`` (Angstrom).

    Raises
    ------
    DataError
        When a periodic cell has no volume.
    """
    return _tries(columns, _images(columns, cutoff)[2])


def _tries(columns: Columns, reach: NDArray[np.int64]) -> NDArray[np.int64]:
    # in floats: the images of a very skewed cell overflow integers
    tries = columns.natoms.astype(np.float64) ** 2 * (2.0 * reach + 1.0).prod(axis=1)
    bounded: NDArray[np.int64] = np.minimum(tries, _MANY).astype(np.int64)
    return bounded


def _images(columns: Columns, cutoff: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return lattices, their inverses [G, 3, 3], and how many cells away neighbours may be [G, 3]."""
    lattice = lattices(columns.cell.astype(np.float64), columns.pbc)
    inverse = np.linalg.inv(lattice).astype(np.float64)
    reach = np.ceil(reaches(inverse, columns.pbc, cutoff) + _ROUND).astype(np.int64)
    reach[~columns.pbc] = 0
    return lattice, inverse, reach


def _joined(parts: list[Edges]) -> Edges:
    """Return the edges of all ``parts``, in the order of structures."""
    if len(parts) < 2:
        return parts[0] if parts else Edges.none(0)
    fields = ("nedges", "src", "dst", "shift")
    return Edges(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def _in_basis(coefficients: Tensor, basis: Tensor, of: Tensor) -> Tensor:
    """Return ``coefficients`` [n, 3] times the rows of the bases [G, 3, 3] that ``of`` [n] names, float64 [n, 3].

    This is not a batched matrix product, because GPU libraries are slow with millions of such small matrices, or refuse
    them.
    """
    total = coefficients[:, :1] * basis[of, 0]
    for k in (1, 2):
        total += coefficients[:, k : k + 1] * basis[of, k]
    return total


def _divide(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder of non-negative numbers."""
    quotient = torch.div(a, b, rounding_mode="floor")
    return quotient, a - quotient * b


def _portions(tries: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of runs of structures with at most ``limit`` pairs together, or of single structures."""
    ends = np.cumsum(tries)
    first = 0
    while first < len(tries):
        before = int(ends[first] - tries[first])
        last = max(first + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield first, last
        first = last
