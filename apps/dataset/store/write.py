"""Writes BP files in the layout of `gfm_pipeline.apps.dataset.store.bp`: block by block, in bounded memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.bp import TARGETS, WEIGHTS
from gfm_pipeline.apps.dataset.store.bp_step import BpStep
from gfm_pipeline.apps.dataset.store.columns import Columns, weight_key
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.layout import CHUNK, LabelExtent
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, Level, Reference, Target
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.records import canonical_json

REFERENCES, N_COEFFICIENTS = "energy_linear_regression_coeff", 118  # by atomic number less 1
TARGET_FACTS = ("level", "rank", "unit")  # attributes of each target
# Bytes per graph, and per atom, in all variables below, with their counts and offsets.
GRAPH_BYTES, ATOM_BYTES = 272, 28


def keys_of(columns: Columns) -> dict[str, tuple[NDArray[Any], NDArray[np.int64]]]:
    """Return key -> (array joined on axis 0, rows of each sample); HydraGNN would read uint8 as text."""
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
        **{name: (_rows(array), one) for name, array in columns.graph_labels.items() if name != ENERGY.name},
        **{name: (_rows(array), columns.natoms) for name, array in columns.atom_labels.items() if name != FORCES.name},
        **{weight_key(name): (array, one) for name, array in columns.weights.items()},
    }


def describe_columns(step: BpStep, targets: Sequence[Target], weighted: Sequence[str] = ()) -> None:
    """Write attributes that describe the columns of targets other than energy and forces, and of weights."""
    if weighted:
        step.attribute(WEIGHTS, list(weighted))
    if targets:
        step.attribute(TARGETS, [target.name for target in targets])
    for target in targets:
        for fact in TARGET_FACTS:
            step.attribute(f"{TARGETS}/{target.name}/{fact}", str(getattr(target, fact)))


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """Return labels as a matrix, with one row of components per label."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def label_bytes(targets: Sequence[Target], weighted: Sequence[str] = ()) -> tuple[int, int]:
    """Return the bytes per structure and per atom of labels of targets other than energy and forces, and of weights.

    They include the counts and offsets of the variables.
    """
    of_level = dict.fromkeys(Level, 0)
    for target in targets:
        of_level[target.level] += label_type(target).itemsize * math.prod(target.shape)
    return of_level[Level.GRAPH] + 16 * len(targets) + 20 * len(weighted), of_level[Level.ATOM]


def label_type(target: Target) -> np.dtype[Any]:
    """Return the type of labels on disk: double if they include references, which may be large."""
    return np.dtype(np.float32 if target.reference is Reference.NONE else np.float64)


def chunks(columns: Columns, size: int = CHUNK) -> Iterator[Columns]:
    """Yield ``columns`` in pieces of ``size`` structures."""
    for first in range(0, len(columns), size):
        yield columns.take(np.arange(first, min(first + size, len(columns))))


def extent(columns: Columns) -> LabelExtent:
    """Return the extent of ``columns`` in a file."""
    starts = columns.offsets[:-1][::CHUNK]
    return LabelExtent(len(columns), len(columns.numbers), tuple(int(s) for s in starts))


@dataclass
class ContentDigest:
    """SHA-256 of the records of a dataset, independent of files and blocks."""

    _parts: dict[str, Any] = field(default_factory=dict)

    def update(self, label: str, columns: Columns) -> None:
        """Add the next records of ``label``."""
        for key, (array, _) in keys_of(columns).items():
            part = self._parts.setdefault(f"{label}/{key}", hashlib.sha256())
            part.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).data)

    def hexdigest(self) -> str:
        """Return the digest of the records so far."""
        parts = {name: part.hexdigest() for name, part in self._parts.items()}
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


class BpWriter(AbstractContextManager["BpWriter"]):
    """Writes one BP5 file with one step; each `put` becomes one block of every variable.

    Parameters
    ----------
    path
        Folder to create; its parent must exist.
    name
        Name of the dataset.
    extents
        Maps a label to its total extent; no label may be empty.
    reference
        Atomic number to reference energy (eV), stored as ``energy_linear_regression_coeff`` [118].
    block
        Structures of each `put` except the last, stored as the attribute ``<label>/block``.
    targets
        Targets other than energy and forces; every `put` has their columns, and attributes describe them.
    weighted
        Names of targets whose labels have weights; every `put` has the columns of these weights.
    comm
        Communicator of mpi4py whose ranks write the file together, each rank its own blocks; `together` returns whether
        ADIOS2 supports this. Opening and closing wait for all ranks, and a rank holds its blocks until then.

    Raises
    ------
    StorageError
        When the disk refuses.
    DataError
        When a split is empty, ADIOS2 refuses the data, or the written extent differs from ``extents``.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        extents: Mapping[Split, LabelExtent],
        reference: Mapping[int, float],
        block: int = CHUNK,
        comm: Any = None,
        targets: Sequence[Target] = (),
        weighted: Sequence[str] = (),
    ) -> None:
        for label, extent in extents.items():
            if not extent.n_graphs:
                raise DataError(f"Split {label} of {name} is empty.", "Give it a larger fraction or more groups.")
        self.path, self._name, self._extents, self._reference = path, name, extents, reference
        self._step = BpStep(path, comm)
        self._graphs = dict.fromkeys(extents, 0)
        self._atoms = dict.fromkeys(extents, 0)
        self._size, self._comm, self._targets = block, comm, tuple(targets)
        self._weighted = tuple(weighted)
        self._of_atoms = {"atomic_numbers", "pos", "forces"} | {t.name for t in targets if t.level is Level.ATOM}

    def __enter__(self) -> BpWriter:
        step = self._step.__enter__()
        total = sum(extent.n_graphs for extent in self._extents.values())
        step.attribute("total_ndata", np.array([total], dtype=np.int64))
        step.attribute("dataset_name", self._name)
        step.attribute(REFERENCES, coefficients(self._reference))
        describe_columns(step, self._targets, self._weighted)
        for label, extent in self._extents.items():
            step.attribute(f"{label}/ndata", np.array([extent.n_graphs], dtype=np.int64))
        return self

    def put(self, label: Split, columns: Columns, at: tuple[int, int] | None = None) -> None:
        """Write structures of ``label``: the next ones, or from structure and atom ``at`` of the file on."""
        extent, step = self._extents[label], self._step
        keys = keys_of(columns)
        if not self._graphs[label]:
            step.attribute(f"{label}/keys", list(keys))
            step.attribute(f"{label}/block", np.array([self._size], dtype=np.int64))
        first, atom = at or (self._graphs[label], self._atoms[label])
        for key, (array, count) in keys.items():
            name = f"{label}/{key}"
            per_graph = 0 if key in self._of_atoms else int(count[0])
            rows = extent.n_atoms if per_graph == 0 else per_graph * extent.n_graphs
            row = atom if per_graph == 0 else per_graph * first
            if not self._graphs[label]:
                # Every key here varies on axis 0 or not at all: 0 is valid for both.
                step.attribute(f"{name}/variable_dim", np.array([0], dtype=np.int64))
            offset = row + np.cumsum(count) - count
            rest = array.shape[1:]
            step.put(name, array, (rows, *rest), (row, *[0] * len(rest)))
            step.put(f"{name}/variable_count", count.astype(np.int64), (extent.n_graphs,), (first,))
            step.put(f"{name}/variable_offset", offset.astype(np.int64), (extent.n_graphs,), (first,))
        self._graphs[label] += len(columns)
        self._atoms[label] += len(columns.numbers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; after an exception the folder is never published."""
        put = self._graphs
        if self._comm is not None and kind is None:
            put = {s: int(self._comm.allreduce(n)) for s, n in put.items()}
        self._step.__exit__(kind, error, trace)
        short = {str(s): n for s, n in put.items() if n != self._extents[s].n_graphs}
        if kind is None and short:
            raise DataError(f"{self.path} got {short} structures where others were announced.")


def coefficients(reference: Mapping[int, float]) -> NDArray[np.float64]:
    """Return reference energies (eV) by atomic number in HydraGNN's form [118], 0 for absent elements."""
    found = np.zeros(N_COEFFICIENTS)
    for number, energy in reference.items():
        found[number - 1] = energy
    return found


def write_bp(
    path: Path,
    name: str,
    splits: Mapping[Split, Columns],
    reference: Mapping[int, float],
    block: int = CHUNK,
    targets: Sequence[Target] = (),
) -> None:
    """Write in-memory ``splits`` to the BP folder ``path``; parameters and errors as `BpWriter`."""
    extents = {label: extent(columns) for label, columns in splits.items()}
    weighted = sorted({name for columns in splits.values() for name in columns.weights})
    with BpWriter(path, name, extents, reference, block, targets=targets, weighted=weighted) as writer:
        for label, columns in splits.items():
            for piece in chunks(columns, block):
                writer.put(label, piece)
