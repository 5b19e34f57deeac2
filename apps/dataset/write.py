"""Writing of BP files in the layout of `gfm_pipeline.apps.dataset.bp`: block by block, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from adios2 import bindings as adios
from numpy.typing import NDArray

from gfm_pipeline.apps.contracts.data import Split
from gfm_pipeline.apps.contracts.layout import CHUNK, LabelExtent
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.common.errors import DataError
from gfm_pipeline.common.publish import storage_errors
from gfm_pipeline.common.records import canonical_json

N_COEFFICIENTS = 118
FLUSH = 64 << 20  # bytes put before they are handed to the disk
# Bytes of a graph, and of one of its atoms, in all variables below, with their counts and offsets.
GRAPH_BYTES, ATOM_BYTES = 272, 28


def keys_of(columns: Columns) -> dict[str, tuple[NDArray[Any], NDArray[np.int64]]]:
    """Return key -> (array joined on axis 0, rows of each sample); uint8 would read back as text in HydraGNN."""
    one = np.ones(len(columns), dtype=np.int64)
    per_atom = columns.energy / columns.natoms
    return {
        "atomic_numbers": (columns.numbers.astype(np.float32)[:, None], columns.natoms),
        "pos": (columns.pos, columns.natoms),
        "forces": (columns.forces, columns.natoms),
        "energy": (columns.energy[:, None], one),
        "energy_per_atom": (per_atom[:, None], one),
        "cell": (columns.cell.reshape(-1, 3), 3 * one),
        "pbc": (columns.pbc.astype(np.int32).reshape(-1), 3 * one),
        "natoms": (columns.natoms, one),
        "graph_attr": (columns.graph_attr.reshape(-1), 2 * one),
        "group": (columns.group, one),
        "origin": (columns.origin, one),
    }


def chunks(columns: Columns, size: int = CHUNK) -> Iterator[Columns]:
    """Yield ``columns`` in pieces of ``size`` structures."""
    for first in range(0, len(columns), size):
        yield columns.take(np.arange(first, min(first + size, len(columns))))


def extent(columns: Columns) -> LabelExtent:
    """Return what a file that holds ``columns`` says of them."""
    starts = columns.offsets[:-1][::CHUNK]
    return LabelExtent(len(columns), len(columns.numbers), tuple(int(s) for s in starts))


@dataclass
class ContentDigest:
    """SHA-256 of the records of a dataset, independent of files and blocks."""

    _parts: dict[str, Any] = field(default_factory=dict)

    def update(self, label: str, columns: Columns) -> None:
        """Take the next records of ``label``."""
        for key, (array, _) in keys_of(columns).items():
            part = self._parts.setdefault(f"{label}/{key}", hashlib.sha256())
            part.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).data)

    def hexdigest(self) -> str:
        """Return the digest of what was taken so far."""
        parts = {name: part.hexdigest() for name, part in self._parts.items()}
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def together() -> bool:
    """Return whether several ranks can write one file: ADIOS2 is built with MPI; its wheels are not."""
    return bool(adios.is_built_with_mpi)


class BpWriter(AbstractContextManager["BpWriter"]):
    """Writes one BP5 file with one step; each `put` becomes one block of every variable.

    Parameters
    ----------
    path
        Folder to create; its parent must exist.
    name
        Name of the dataset.
    extents
        Label to what will be put in all; none may be empty.
    reference
        Atomic number to reference energy (eV), stored as ``energy_linear_regression_coeff`` [118].
    block
        Structures of each `put` but the last, kept as the attribute ``<label>/block``.
    comm
        Communicator of mpi4py whose ranks write the file together, each its own blocks; `together` says whether ADIOS2
        can. Opening and leaving wait for all ranks, and a rank holds its blocks until then.

    Raises
    ------
    StorageError
        When the disk refuses.
    DataError
        When a split is empty, ADIOS2 refuses the data, or less or more is put than was said.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        extents: Mapping[Split, LabelExtent],
        reference: Mapping[int, float],
        block: int = CHUNK,
        comm: Any = None,
    ) -> None:
        for label, wanted in extents.items():
            if not wanted.n_graphs:
                raise DataError(f"Split {label} of {name} is empty.", "Give it a larger fraction or more groups.")
        self.path, self._name, self._extents, self._reference = path, name, extents, reference
        self._variables: dict[str, Any] = {}
        self._graphs = dict.fromkeys(extents, 0)
        self._atoms = dict.fromkeys(extents, 0)
        self._pending = 0
        self._size, self._comm = block, comm

    def __enter__(self) -> BpWriter:
        with storage_errors(self.path), self._explained():
            self._context = adios.ADIOS() if self._comm is None else adios.ADIOS(self._comm)
            self._io = self._context.DeclareIO("write")
            self._io.SetEngine("BP5")
            # Statistics stay on: HydraGNN's reader tells cached counts apart by their Min and Max.
            self._io.SetParameter("Threads", "1")
            self._engine = self._io.Open(str(self.path), adios.Mode.Write)
            self._engine.BeginStep()
            total = sum(extent.n_graphs for extent in self._extents.values())
            self._io.DefineAttribute("total_ndata", np.array([total], dtype=np.int64))
            self._io.DefineAttribute("dataset_name", self._name)
            coefficients = np.zeros(N_COEFFICIENTS)
            for number, energy in self._reference.items():
                coefficients[number - 1] = energy
            self._io.DefineAttribute("energy_linear_regression_coeff", coefficients)
            for label, extent in self._extents.items():
                self._io.DefineAttribute(f"{label}/ndata", np.array([extent.n_graphs], dtype=np.int64))
        return self

    def put(self, label: Split, columns: Columns, at: tuple[int, int] | None = None) -> None:
        """Write structures of ``label``: the next ones, or those from structure and atom ``at`` of the file on."""
        wanted = self._extents[label]
        keys = keys_of(columns)
        if not self._graphs[label]:
            self._io.DefineAttribute(f"{label}/keys", list(keys))
            self._io.DefineAttribute(f"{label}/block", np.array([self._size], dtype=np.int64))
        first, atom = at or (self._graphs[label], self._atoms[label])
        with storage_errors(self.path), self._explained():
            for key, (array, count) in keys.items():
                name = f"{label}/{key}"
                per_graph = 0 if key in ("atomic_numbers", "pos", "forces") else int(count[0])
                rows = wanted.n_atoms if per_graph == 0 else per_graph * wanted.n_graphs
                row = atom if per_graph == 0 else per_graph * first
                if not self._graphs[label]:
                    # Every key here varies on axis 0 or not at all: 0 is right for both.
                    self._io.DefineAttribute(f"{name}/variable_dim", np.array([0], dtype=np.int64))
                offset = row + np.cumsum(count) - count
                self._block(name, array, row, rows)
                self._block(f"{name}/variable_count", count.astype(np.int64), first, wanted.n_graphs)
                self._block(f"{name}/variable_offset", offset.astype(np.int64), first, wanted.n_graphs)
            if self._pending >= FLUSH and self._comm is None:  # with several ranks all would have to at once
                self._engine.PerformDataWrite()
                self._pending = 0
        self._graphs[label] += len(columns)
        self._atoms[label] += len(columns.numbers)

    def _block(self, name: str, array: NDArray[Any], first: int, rows: int) -> None:
        """Put rows ``first`` and following; ``Sync`` copies, so the buffer may go at once."""
        rest = list(array.shape[1:])
        if first + len(array) > rows:
            raise DataError(f"{name} of {self.path} is longer than the {rows} rows that were announced.")
        if name not in self._variables:
            shape = [rows, *rest]
            self._variables[name] = self._io.DefineVariable(
                name, np.zeros(1, array.dtype), shape, [0] * len(shape), shape
            )
        variable = self._variables[name]
        block = np.array(array, order="C")  # a copy: read-only arrays are refused with a wrong message
        variable.SetSelection([[first, *[0] * len(rest)], [len(array), *rest]])
        self._engine.Put(variable, block, adios.Mode.Sync)
        self._pending += block.nbytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the file; what is left after an exception is not a dataset, and its folder is never published."""
        put = self._graphs
        if self._comm is not None:
            if kind is not None:
                return  # to end the file is to wait for all ranks, and one that fails cannot
            put = {s: int(self._comm.allreduce(n)) for s, n in put.items()}
        short = {str(s): n for s, n in put.items() if n != self._extents[s].n_graphs}
        with storage_errors(self.path), self._explained():
            self._engine.EndStep()
            self._engine.Close()
        # Timings inside would give equal data a different digest.
        (self.path / "profiling.json").unlink(missing_ok=True)
        if kind is None and short:
            raise DataError(f"{self.path} got {short} structures where others were announced.")

    def _explained(self) -> AbstractContextManager[None]:
        return _Explained(self.path)


@dataclass
class _Explained(AbstractContextManager[None]):
    """Turns what ADIOS2 says into one sentence."""

    path: Path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RuntimeError):
            said = (str(error).splitlines() or [""])[0]
            raise DataError(f"ADIOS2 could not write {self.path}: {said}.") from error


def write_bp(
    path: Path, name: str, splits: Mapping[Split, Columns], reference: Mapping[int, float], block: int = CHUNK
) -> None:
    """Write ``splits``, which are in memory, to the BP folder ``path``; parameters and errors as `BpWriter`."""
    extents = {label: extent(columns) for label, columns in splits.items()}
    with BpWriter(path, name, extents, reference, block) as writer:
        for label, columns in splits.items():
            for piece in chunks(columns, block):
                writer.put(label, piece)
