"""One split of a dataset as flat arrays: atoms of all structures end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.core.errors import DataError

Labels = Mapping[str, NDArray[np.floating[Any]]]
_OF_ATOMS = ("numbers", "pos")
_OF_GRAPHS = ("cell", "pbc", "group", "origin", "graph_attr")


def weight_key(target: str) -> str:
    """Return the name of the column with the weights of the labels of a target."""
    return f"weight_of_{target}"


def flat_ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``concatenate([arange(s, s + c) for s, c in zip(starts, counts)])`` without a loop."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total, dtype=np.int64)


def _label(array: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
    return np.ascontiguousarray(array, dtype=np.float64 if array.dtype == np.float64 else np.float32)


def _like(array: NDArray[Any], rows: int) -> NDArray[Any]:
    return np.empty((rows, *array.shape[1:]), dtype=array.dtype)


@dataclass(frozen=True)
class Columns:
    """G structures with N atoms in total; lengths in Angstrom, labels in the units of their targets.

    Attributes
    ----------
    numbers
        Atomic numbers [N], uint8.
    pos
        Positions [N, 3], float32.
    cell
        Lattice vectors as rows [G, 3, 3], float32.
    pbc
        Periodic directions [G, 3], bool.
    natoms
        Atoms of each structure [G], int64.
    offsets
        First atom of each structure, and N at the end [G + 1], int64.
    group
        Index of the trajectory or family [G], int64; the same in every split.
    origin
        Position of the record in the reading order of the source, including quarantined records [G], int64.
    graph_attr
        Total charge (e) and spin multiplicity, NaN when not known [G, 2], float32. Datasets from before 2026-12 have 0
        for unknown values; for a charge this equals a neutral structure.
    graph_labels, atom_labels
        Labels by name of a target, of structures [G, ...] and of atoms [N, ...], with the shape of the target's rank;
        NaN for missing labels. Labels that include references, such as energies, are float64; all others are float32.
        Total energies and forces are always present.
    weights
        By name of a target, the weight of each structure's labels in the loss [G], float32; 1 without an entry.
    """

    numbers: NDArray[np.uint8]
    pos: NDArray[np.float32]
    cell: NDArray[np.float32]
    pbc: NDArray[np.bool_]
    natoms: NDArray[np.int64]
    offsets: NDArray[np.int64]
    group: NDArray[np.int64]
    origin: NDArray[np.int64]
    graph_attr: NDArray[np.float32]
    graph_labels: Labels
    atom_labels: Labels
    weights: Labels = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.natoms)

    @property
    def energy(self) -> NDArray[np.float64]:
        """Total energies [G], eV."""
        return self.graph_labels["energy"]  # type: ignore[return-value]

    @property
    def forces(self) -> NDArray[np.float32]:
        """Forces [N, 3], eV/Angstrom."""
        return self.atom_labels["forces"]

    def labels_of(self, target: str) -> NDArray[np.floating[Any]]:
        """Return the labels of a target, of structures or of atoms.

        Raises
        ------
        KeyError
            When the columns lack them.
        """
        return self.graph_labels[target] if target in self.graph_labels else self.atom_labels[target]

    @classmethod
    def build(
        cls,
        *,
        numbers: NDArray[np.generic],
        pos: NDArray[np.generic],
        forces: NDArray[np.generic],
        energy: NDArray[np.generic],
        cell: NDArray[np.generic],
        pbc: NDArray[np.generic],
        natoms: NDArray[np.generic],
        group: NDArray[np.generic] | None = None,
        origin: NDArray[np.generic] | None = None,
        graph_attr: NDArray[np.generic] | None = None,
        graph_labels: Mapping[str, NDArray[np.generic]] | None = None,
        atom_labels: Mapping[str, NDArray[np.generic]] | None = None,
        weights: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> Columns:
        """Convert to the types of this class, form ``offsets`` and check the shapes.

        ``graph_labels`` and ``atom_labels`` are labels other than energies and forces; float64 labels stay float64.

        Raises
        ------
        DataError
            When the lengths do not fit together.
        """
        counts = np.ascontiguousarray(natoms, dtype=np.int64)
        n_graphs, n_atoms = len(counts), int(counts.sum())
        shapes = {
            "numbers": (numbers, (n_atoms,)),
            "pos": (pos, (n_atoms, 3)),
            "forces": (forces, (n_atoms, 3)),
            "energy": (energy, (n_graphs,)),
            "cell": (cell, (n_graphs, 3, 3)),
            "pbc": (pbc, (n_graphs, 3)),
        }
        of_graphs, of_atoms = dict(graph_labels or {}), dict(atom_labels or {})
        shapes |= {name: (array, (n_graphs, *array.shape[1:])) for name, array in of_graphs.items()}
        shapes |= {weight_key(name): (array, (n_graphs,)) for name, array in (weights or {}).items()}
        shapes |= {name: (array, (n_atoms, *array.shape[1:])) for name, array in of_atoms.items()}
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise DataError(f"Column {name} has shape {array.shape} where natoms asks for {shape}.")
        return cls(
            numbers=np.ascontiguousarray(numbers, dtype=np.uint8),
            pos=np.ascontiguousarray(pos, dtype=np.float32),
            cell=np.ascontiguousarray(cell, dtype=np.float32),
            pbc=np.ascontiguousarray(pbc, dtype=np.bool_),
            natoms=counts,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            group=np.zeros(n_graphs, np.int64) if group is None else np.ascontiguousarray(group, dtype=np.int64),
            origin=np.arange(n_graphs) if origin is None else np.ascontiguousarray(origin, dtype=np.int64),
            graph_attr=np.full((n_graphs, 2), np.nan, np.float32)
            if graph_attr is None
            else np.ascontiguousarray(graph_attr, dtype=np.float32),
            graph_labels={"energy": np.ascontiguousarray(energy, dtype=np.float64)}
            | {name: _label(array) for name, array in of_graphs.items()},
            atom_labels={"forces": np.ascontiguousarray(forces, dtype=np.float32)}
            | {name: _label(array) for name, array in of_atoms.items()},
            weights={name: np.ascontiguousarray(array, dtype=np.float32) for name, array in (weights or {}).items()},
        )

    def take(self, graphs: NDArray[np.int64] | Sequence[int]) -> Columns:
        """Return the structures ``graphs``, in that order, as new columns."""
        return Columns.gather([(self, np.asarray(graphs, dtype=np.int64))])

    @staticmethod
    def gather(parts: Sequence[tuple[Columns, NDArray[np.int64]]]) -> Columns:
        """Return selected structures of one or more columns, end to end in the given order.

        All columns must have the same labels and weights.
        """
        natoms = np.concatenate([columns.natoms.take(graphs) for columns, graphs in parts])
        offsets = np.concatenate([[0], np.cumsum(natoms)])
        first_part = parts[0][0]
        of_atoms = {name: _like(array, int(offsets[-1])) for name, array in first_part._of_atoms().items()}
        of_graphs = {name: _like(array, len(natoms)) for name, array in first_part._of_graphs().items()}
        graph = 0
        for columns, graphs in parts:
            atoms = flat_ranges(columns.offsets.take(graphs), columns.natoms.take(graphs))
            first, end = graph, graph + len(graphs)
            # `take` copies rows twice as fast as indexing with an array, and without a buffer where it does not check;
            # `natoms.take` above did
            for name, array in columns._of_atoms().items():
                out = of_atoms[name][int(offsets[first]) : int(offsets[end])]
                array.take(atoms, axis=0, out=out, mode="clip")
            for name, array in columns._of_graphs().items():
                array.take(graphs, axis=0, out=of_graphs[name][first:end], mode="wrap")
            graph = end
        return Columns(
            natoms=natoms,
            offsets=offsets,
            graph_labels={name: of_graphs[name] for name in first_part.graph_labels},
            atom_labels={name: of_atoms[name] for name in first_part.atom_labels},
            weights={name: of_graphs[weight_key(name)] for name in first_part.weights},
            **{name: of_atoms[name] for name in _OF_ATOMS},
            **{name: of_graphs[name] for name in _OF_GRAPHS},
        )

    def _of_atoms(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in _OF_ATOMS} | dict(self.atom_labels)

    def _of_graphs(self) -> dict[str, NDArray[Any]]:
        weights = {weight_key(name): array for name, array in self.weights.items()}
        return {name: getattr(self, name) for name in _OF_GRAPHS} | dict(self.graph_labels) | weights

    @staticmethod
    def concatenate(parts: Sequence[Columns]) -> Columns:
        """Return the structures of all ``parts`` end to end; group and origin are kept as they are."""
        return Columns.gather([(part, np.arange(len(part))) for part in parts])

    def composition(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the atomic numbers present [S], ascending, and how often each structure has them [G, S]."""
        present = np.flatnonzero(np.bincount(self.numbers, minlength=256))
        place = np.zeros(256, dtype=np.int64)
        place[present] = np.arange(len(present))
        index = place[self.numbers]
        graph = np.repeat(np.arange(len(self)), self.natoms)
        flat = np.bincount(graph * len(present) + index, minlength=len(self) * len(present))
        return present.astype(np.int64), flat.reshape(len(self), len(present)).astype(np.float64)
