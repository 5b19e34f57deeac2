"""Structures with their edges in memory, and batches gathered from them without a loop over atoms or edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.columns import Columns, flat_ranges
from gfm_pipeline.apps.dataset.edges import Edges, Lister, Packed, list_edges, select_edges
from gfm_pipeline.common.errors import DataError
from gfm_pipeline.models.batch import Batch


@dataclass(frozen=True)
class GraphTable:
    """All structures of one split with the edges inside one cutoff.

    Attributes
    ----------
    dataset
        Branch of the model these structures belong to.
    z, pos, forces
        Atomic numbers [N] int64, positions and forces [N, 3] float32.
    energy
        Labels minus reference energies [G], eV, subtracted in float64.
    natoms, atom_start
        Atoms and first atom of each structure [G].
    nedges, edge_start
        Directed edges and first edge of each structure [G].
    src, dst
        Edge ends, counted from the structure's first atom [E], int64.
    shift
        Cartesian displacement of the image of ``dst`` [E, 3], float32.
    """

    dataset: int
    z: NDArray[np.int64]
    pos: NDArray[np.float32]
    forces: NDArray[np.float32]
    energy: NDArray[np.float64]
    natoms: NDArray[np.int64]
    atom_start: NDArray[np.int64]
    nedges: NDArray[np.int64]
    edge_start: NDArray[np.int64]
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    shift: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.natoms)

    @property
    def avg_neighbours(self) -> float:
        """Mean number of neighbours of an atom."""
        return len(self.src) / max(1, len(self.z))

    def degrees(self) -> NDArray[np.int64]:
        """Return the number of neighbours of each atom [N]."""
        return np.bincount(np.repeat(self.atom_start, self.nedges) + self.dst, minlength=len(self.z))

    def label_counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many energies (0 or 1) and force vectors of each structure are known [G]."""
        known = np.concatenate([[0], np.cumsum(~np.isnan(self.forces).any(1))])
        forces = known[self.atom_start + self.natoms] - known[self.atom_start]
        return (~np.isnan(self.energy)).astype(np.int64), forces.astype(np.int64)

    @classmethod
    def build(
        cls,
        columns: Columns,
        cutoff: float | None,
        dataset_index: int,
        reference: Mapping[str, float],
        stored: Packed | None = None,
        lister: Lister = list_edges,
    ) -> GraphTable:
        """List the neighbours of every structure, or choose from stored ones, and subtract reference energies.

        Parameters
        ----------
        columns
            The structures.
        cutoff
            Angstrom; None: no edges.
        dataset_index
            Branch of the model these structures belong to.
        reference
            Element symbol to reference energy (eV).
        stored
            Edges of these structures that were stored, within ``cutoff`` or more.
        lister
            Searches what is not stored.

        Raises
        ------
        DataError
            When an element has no reference energy, or a cell has no volume.
        IntegrityError
            When the stored edges are not those of these structures.
        """
        present, composition = columns.composition()
        symbols = [chemical_symbols[number] for number in present]
        missing = [symbol for symbol in symbols if symbol not in reference]
        if missing:
            raise DataError(f"There is no reference energy for {', '.join(missing)}.", "Ingest the dataset again.")
        energy = columns.energy - composition @ np.array([reference[symbol] for symbol in symbols])
        if cutoff is None:
            edges = Edges.none(len(columns))
        else:
            edges = lister(columns, cutoff) if stored is None else select_edges(columns, stored, cutoff, lister)
        return cls(
            dataset=dataset_index,
            z=columns.numbers.astype(np.int64),
            pos=columns.pos,
            forces=columns.forces,
            energy=energy,
            natoms=columns.natoms,
            atom_start=columns.offsets[:-1],
            nedges=edges.nedges,
            edge_start=np.cumsum(edges.nedges) - edges.nedges,
            src=edges.src,
            dst=edges.dst,
            shift=edges.shift,
        )


def collate(tables: Sequence[GraphTable], table_index: NDArray[np.int64], graph_index: NDArray[np.int64]) -> Batch:
    """Gather structures into one batch, in the order given.

    Parameters
    ----------
    tables
        The tables indices count in.
    table_index, graph_index
        Which table and which structure of it [B].

    Returns
    -------
    Batch
        Floating tensors are float32; ``energy`` is label minus references.
    """
    if len(table_index) and (table_index == table_index[0]).all():
        return _collate_one(tables[int(table_index[0])], np.asarray(graph_index))
    return _collate_many(tables, np.asarray(table_index), np.asarray(graph_index))


def _collate_one(table: GraphTable, index: NDArray[np.int64]) -> Batch:
    natoms, nedges = table.natoms[index], table.nedges[index]
    atoms = flat_ranges(table.atom_start[index], natoms)
    src, dst, shift = table.src, table.dst, table.shift
    if len(src):
        edges = flat_ranges(table.edge_start[index], nedges)
        first = np.repeat(np.cumsum(natoms) - natoms, nedges)
        src, dst, shift = src.take(edges) + first, dst.take(edges) + first, shift.take(edges, axis=0)
    return _batch(
        z=table.z.take(atoms),
        pos=table.pos.take(atoms, axis=0),
        forces=table.forces.take(atoms, axis=0),
        src=src,
        dst=dst,
        shift=shift,
        natoms=natoms,
        dataset=np.full(len(index), table.dataset, dtype=np.int64),
        energy=table.energy[index],
    )


def _collate_many(
    tables: Sequence[GraphTable], table_index: NDArray[np.int64], graph_index: NDArray[np.int64]
) -> Batch:
    members = [np.flatnonzero(table_index == t) for t in range(len(tables))]
    natoms, nedges, dataset = (np.zeros(len(graph_index), dtype=np.int64) for _ in range(3))
    energy = np.zeros(len(graph_index))
    for table, where in zip(tables, members, strict=True):
        picked = graph_index[where]
        natoms[where], nedges[where] = table.natoms[picked], table.nedges[picked]
        dataset[where], energy[where] = table.dataset, table.energy[picked]
    atom_start, edge_start = np.cumsum(natoms) - natoms, np.cumsum(nedges) - nedges
    n_atoms, n_edges = int(natoms.sum()), int(nedges.sum())
    z = np.empty(n_atoms, dtype=np.int64)
    pos, forces = np.empty((n_atoms, 3), dtype=np.float32), np.empty((n_atoms, 3), dtype=np.float32)
    src, dst = np.empty(n_edges, dtype=np.int64), np.empty(n_edges, dtype=np.int64)
    shift = np.empty((n_edges, 3), dtype=np.float32)
    for table, where in zip(tables, members, strict=True):
        picked = graph_index[where]
        atoms, to_atoms = (
            flat_ranges(table.atom_start[picked], natoms[where]),
            flat_ranges(atom_start[where], natoms[where]),
        )
        edges, to_edges = (
            flat_ranges(table.edge_start[picked], nedges[where]),
            flat_ranges(edge_start[where], nedges[where]),
        )
        first = np.repeat(atom_start[where], nedges[where])
        z[to_atoms], pos[to_atoms], forces[to_atoms] = table.z[atoms], table.pos[atoms], table.forces[atoms]
        src[to_edges], dst[to_edges] = table.src[edges] + first, table.dst[edges] + first
        shift[to_edges] = table.shift[edges]
    return _batch(z, pos, forces, src, dst, shift, natoms, dataset, energy)


def _batch(
    z: NDArray[np.int64],
    pos: NDArray[np.float32],
    forces: NDArray[np.float32],
    src: NDArray[np.int64],
    dst: NDArray[np.int64],
    shift: NDArray[np.float32],
    natoms: NDArray[np.int64],
    dataset: NDArray[np.int64],
    energy: NDArray[np.float64],
) -> Batch:
    return Batch(
        z=torch.from_numpy(z),
        pos=torch.from_numpy(pos),
        edge_src=torch.from_numpy(src),
        edge_dst=torch.from_numpy(dst),
        edge_shift=torch.from_numpy(shift),
        graph=torch.from_numpy(np.repeat(np.arange(len(natoms)), natoms)),
        natoms=torch.from_numpy(natoms),
        dataset=torch.from_numpy(dataset),
        energy=torch.from_numpy(energy.astype(np.float32)),
        forces=torch.from_numpy(forces),
    )
