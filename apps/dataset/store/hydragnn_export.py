"""Export of a dataset to one BP file with samples for HydraGNN's training scripts for foundation models.

Those scripts take 15 keys by name from files called ``NAME-v2.bp``: a structure and its labels, and a precomputed
radius graph of the nearest ``max_neighbours`` sources of each target. The export lists edges once, stores them next to
the file until their number is known, and copies them in, because ADIOS2 needs the shape of an array before its first
block. Structures without any edge are left out, because HydraGNN reads a sample by ``adios2.Stream``, which fails on a
selection of nothing. Source of the layout: HydraGNN 5, ``AdiosWriter`` and ``examples/multidataset_hpo_sc26``.
"""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.edges import Edges, build_edges, select_edges
from gfm_pipeline.apps.dataset.store.bp_step import BpStep
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.dataset.store.dataset import Dataset
from gfm_pipeline.apps.dataset.store.edge_files import StoredEdges
from gfm_pipeline.apps.dataset.store.write import (
    N_COEFFICIENTS,
    REFERENCES,
    ContentDigest,
    coefficients,
    describe_columns,
)
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.layout import DatasetExportFacts, ExportedEnergies, HydragnnExport
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.publish import storage_errors
from gfm_pipeline.core.strenum import StrEnum

AT_ONCE = 20_000  # atoms whose edges are in memory, except for a single larger structure
Array = NDArray[Any]
_SPOOLED = {"nedges": np.int64, "src": np.int32, "dst": np.int32, "shift": np.float32}


class Per(StrEnum):
    """The object that each row of a key's array describes."""

    ATOM = "atom"
    EDGE = "edge"
    GRAPH = "graph"  # the same number of rows for each


@dataclass(frozen=True)
class Piece:
    """One key of some samples: ``values`` end to end on ``axis``, their lengths there [G], and the object of a row."""

    values: Array
    counts: NDArray[np.int64]
    per: Per = Per.GRAPH
    axis: int = 0


def pieces(dataset: Dataset, label: Split) -> Iterator[Columns]:
    """Yield a split in pieces of few atoms, so that the edges of a piece always take little memory."""
    for block in dataset.blocks(label):
        ends = np.flatnonzero(np.diff(block.offsets[1:] // AT_ONCE, append=-1)) + 1
        for first, end in pairwise([0, *ends.tolist()]):
            yield block.take(np.arange(first, end))


def nearest(columns: Columns, edges: Edges, limit: int) -> Edges:
    """Return the ``limit`` shortest edges that end in each atom, ordered by that atom and by length.

    Rounding decides between equally long edges.
    """
    graph = np.repeat(np.arange(len(columns)), edges.nedges)
    target = edges.dst + columns.offsets[graph]
    order = np.lexsort((lengths(columns, edges), target))
    ordered = target[order]
    first = np.searchsorted(ordered, ordered)  # of the edges that end in the same atom
    chosen = order[np.arange(len(order)) - first < limit]
    nedges = np.bincount(graph[chosen], minlength=len(columns))
    return Edges(nedges, edges.src[chosen], edges.dst[chosen], edges.shift[chosen])


def lengths(columns: Columns, edges: Edges) -> NDArray[np.float32]:
    """Return the lengths of edges [E], Angstrom."""
    first = np.repeat(columns.offsets[:-1], edges.nedges)
    vectors = columns.pos[first + edges.dst] - columns.pos[first + edges.src] + edges.shift
    return np.asarray(np.linalg.norm(vectors, axis=1), dtype=np.float32)


def samples(columns: Columns, edges: Edges, energy: NDArray[np.float64]) -> dict[str, Piece]:
    """Return the keys of HydraGNN's samples, and ours: the origin of a structure, and labels of further targets.

    ``energy`` [G] is the learned energy, eV. Floats have single precision, as HydraGNN's losses require.
    """
    one, n = np.ones(len(columns), dtype=np.int64), columns.natoms
    numbers = columns.numbers.astype(np.float32)[:, None]
    energies = energy.astype(np.float32)
    cell = np.arange(len(columns)).repeat(n) * N_COEFFICIENTS + columns.numbers.astype(np.int64) - 1
    composition = np.bincount(cell, minlength=len(columns) * N_COEFFICIENTS).astype(np.float32)
    return {
        "atomic_numbers": Piece(numbers, n, Per.ATOM),
        "pos": Piece(columns.pos, n, Per.ATOM),
        "forces": Piece(columns.forces, n, Per.ATOM),
        "x": Piece(np.concatenate([numbers, columns.pos, columns.forces], axis=1), n, Per.ATOM),
        "energy": Piece(energies[:, None], one),
        "energy_per_atom": Piece((energy / n).astype(np.float32)[:, None], one),
        "y": Piece(energies, one),
        "cell": Piece(columns.cell.reshape(-1, 3), 3 * one),
        "pbc": Piece(columns.pbc.astype(np.int32).reshape(-1), 3 * one),
        "natoms": Piece(n, one),
        "graph_attr": Piece(np.nan_to_num(columns.graph_attr).reshape(-1), 2 * one),  # its scripts do not accept NaN
        "chemical_composition": Piece(composition[:, None], N_COEFFICIENTS * one),
        "edge_index": Piece(np.stack([edges.src, edges.dst]).astype(np.int64), edges.nedges, Per.EDGE, axis=1),
        "edge_attr": Piece(lengths(columns, edges)[:, None], edges.nedges, Per.EDGE),
        "edge_shifts": Piece(edges.shift, edges.nedges, Per.EDGE),
        "group": Piece(columns.group, one),
        "origin": Piece(columns.origin, one),
        **{name: Piece(_single(array), one) for name, array in columns.graph_labels.items() if name != ENERGY.name},
        **{
            name: Piece(_single(array), n, Per.ATOM)
            for name, array in columns.atom_labels.items()
            if name != FORCES.name
        },
    }


def _single(labels: Array) -> Array:
    """Return labels of a target as a matrix of single floats, with one row of components per label."""
    return labels.reshape(len(labels), math.prod(labels.shape[1:])).astype(np.float32)


class EdgeSpool:
    """Edges of one split on disk, written piece by piece and read back in the same pieces."""

    def __init__(self, folder: Path, label: Split) -> None:
        self._paths = {name: folder / f"{label}.{name}" for name in _SPOOLED}
        self._open = ExitStack()
        self.n_edges = self.n_graphs = self.n_atoms = 0  # of the structures that have edges

    def __enter__(self) -> EdgeSpool:
        with storage_errors(self._paths["src"]), ExitStack() as stack:
            self._files = {name: stack.enter_context(open(path, "w+b")) for name, path in self._paths.items()}
            self._open = stack.pop_all()
        return self

    def append(self, edges: Edges, natoms: NDArray[np.int64]) -> None:
        """Write the edges of the next structures with their numbers of atoms [G]."""
        for name, dtype in _SPOOLED.items():
            with storage_errors(self._paths[name]):
                self._files[name].write(np.ascontiguousarray(getattr(edges, name), dtype=dtype).data)
        self.n_edges += len(edges.src)
        self.n_graphs += int((edges.nedges > 0).sum())
        self.n_atoms += int(natoms[edges.nedges > 0].sum())

    def rewind(self) -> None:
        """Start reading."""
        for name, file in self._files.items():
            with storage_errors(self._paths[name]):
                file.seek(0)

    def read(self, graphs: int) -> Edges:
        """Return the edges of the next ``graphs`` structures."""
        nedges = self._read("nedges", graphs)
        n = int(nedges.sum())
        src, dst = (self._read(name, n).astype(np.int64) for name in ("src", "dst"))
        return Edges(nedges, src, dst, self._read("shift", 3 * n).reshape(n, 3))

    def _read(self, name: str, n: int) -> Array:
        with storage_errors(self._paths[name]):
            return np.fromfile(self._files[name], dtype=_SPOOLED[name], count=n)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


@dataclass
class _Export:
    """One export: its options, and its progress."""

    dataset: Dataset
    options: HydragnnExport
    reference: NDArray[np.float64]
    content: ContentDigest = field(default_factory=ContentDigest)
    degrees: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    alone: int = 0  # atoms without a neighbour
    left_out: int = 0  # structures without an edge
    unlabelled: int = 0  # structures without forces

    def spool(self, label: Split, spool: EdgeSpool) -> None:
        """List and count the edges of a split."""
        stored = self.dataset.edges(label, self.options.radius)
        done = 0
        for columns in pieces(self.dataset, label):
            edges = nearest(columns, self._edges(columns, stored, done), self.options.max_neighbours)
            spool.append(edges, columns.natoms)
            self.content.update(str(label), columns)
            done += len(columns)
            target = edges.dst + np.repeat(columns.offsets[:-1], edges.nedges)
            degree = np.bincount(target, minlength=len(columns.numbers))[np.repeat(edges.nedges > 0, columns.natoms)]
            if label is Split.TRAIN:
                self.degrees += np.bincount(degree, minlength=len(self.degrees))
            self.alone += int((degree == 0).sum())
            self.left_out += int((edges.nedges == 0).sum())
            self.unlabelled += int(np.isnan(columns.forces[columns.offsets[:-1], 0])[edges.nedges > 0].sum())

    def _edges(self, columns: Columns, stored: StoredEdges | None, first: int) -> Edges:
        if stored is None:
            return build_edges(columns, self.options.radius)
        return select_edges(columns, stored.read(np.arange(first, first + len(columns))), self.options.radius)

    def write(self, step: BpStep, label: Split, spool: EdgeSpool) -> None:
        """Write a split."""
        graphs, totals = spool.n_graphs, {Per.ATOM: spool.n_atoms, Per.EDGE: spool.n_edges}
        spool.rewind()
        done: dict[str, int] = {}
        first = 0
        for block in pieces(self.dataset, label):
            edges = spool.read(len(block))
            chosen = np.flatnonzero(edges.nedges)
            if not len(chosen):
                continue
            columns, edges = block.take(chosen), replace(edges, nedges=edges.nedges[chosen])
            keys = samples(columns, edges, self._energies(columns))
            if not first:
                step.attribute(f"{label}/ndata", np.array([graphs], dtype=np.int64))
                step.attribute(f"{label}/keys", list(keys))
            for key, piece in keys.items():
                name, axis, at = f"{label}/{key}", piece.axis, done.get(key, 0)
                if not first:
                    step.attribute(f"{name}/variable_dim", np.array([axis], dtype=np.int64))
                shape = list(piece.values.shape)
                shape[axis] = graphs * int(piece.counts[0]) if piece.per is Per.GRAPH else totals[piece.per]
                start = [at if k == axis else 0 for k in range(len(shape))]
                step.put(name, piece.values, shape, start)
                step.put(f"{name}/variable_count", piece.counts, (graphs,), (first,))
                step.put(f"{name}/variable_offset", at + np.cumsum(piece.counts) - piece.counts, (graphs,), (first,))
                done[key] = at + piece.values.shape[axis]
            first += len(columns)

    def _energies(self, columns: Columns) -> NDArray[np.float64]:
        if self.options.energies is ExportedEnergies.TOTAL:
            return columns.energy
        of_atoms = self.reference[columns.numbers.astype(np.int64) - 1]
        return np.asarray(columns.energy - np.add.reduceat(of_atoms, columns.offsets[:-1]))


def export(dataset: Dataset, output: Path, options: HydragnnExport) -> DatasetExportFacts:
    """Write ``output``, which appears whole or not at all.

    Raises
    ------
    ConfigError
        When ``output`` exists, its name does not end in ``.bp``, the radius or number of neighbours is not positive, or
        a split has no edge within the radius.
    StorageError
        When the disk refuses.
    """
    if output.suffix != ".bp":
        raise ConfigError(f"{output} does not end in .bp, and HydraGNN looks for files that do.")
    if output.exists():
        raise ConfigError(f"{output} exists already.", "Remove it, or choose another name.")
    if options.radius <= 0 or options.max_neighbours < 1:
        raise ConfigError(f"A graph of {options.max_neighbours} neighbours within {options.radius:g} A has no edges.")
    references = dataset.statistics.reference
    reference = coefficients({atomic_numbers[symbol]: energy for symbol, energy in references.items()})
    degrees = np.zeros(options.max_neighbours + 1, dtype=np.int64)
    work = _Export(dataset, options, reference, degrees=degrees)
    temporary = output.with_name(f".{output.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        with storage_errors(output):
            temporary.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{output.parent} is a file, so there is no folder for {output.name}.") from None
    try:
        n_graphs, n_edges = _write(work, temporary, temporary / output.name)
        with storage_errors(output):
            (temporary / output.name).rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return DatasetExportFacts(
        output=str(output),
        bytes=sum(path.stat().st_size for path in output.iterdir()),
        structures=n_graphs,
        edges=n_edges,
        left_out=work.left_out,
        atoms_alone=work.alone,
        without_forces=work.unlabelled,
        content=work.content.hexdigest(),
    )


def _write(work: _Export, folder: Path, path: Path) -> tuple[int, int]:
    """Write the BP file ``path`` with temporary edges in ``folder``; return numbers of structures and edges."""
    options = work.options
    with ExitStack() as stack:
        spools = {split: stack.enter_context(EdgeSpool(folder, split)) for split in Split}
        for split, spool in spools.items():
            work.spool(split, spool)
            if not spool.n_edges:
                raise ConfigError(
                    f"No two atoms in {split} of {work.dataset.name} are closer than {options.radius:g} A, and "
                    "structures without edges are not exported.",
                    "Give a larger --radius.",
                )
        graphs, edges = (sum(getattr(s, n) for s in spools.values()) for n in ("n_graphs", "n_edges"))
        with BpStep(path) as step:
            step.attribute("total_ndata", np.array([graphs], dtype=np.int64))
            step.attribute("dataset_name", options.name or work.dataset.name)
            describe_columns(step, [facts.target for facts in work.dataset.statistics.targets.values()])
            step.attribute("pna_deg", work.degrees)
            if options.energies is ExportedEnergies.RESIDUAL:
                step.attribute(REFERENCES, work.reference)
            for split, spool in spools.items():
                work.write(step, split, spool)
        return graphs, edges
