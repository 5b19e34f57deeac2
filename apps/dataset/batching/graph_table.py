"""Structures with their edges in memory; labels are relative to the references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.edges import Edges, NeighborListFn, Packed, build_edges, select_edges
from gfm_pipeline.apps.dataset.store.columns import Columns, Labels
from gfm_pipeline.apps.dataset.store.index import known_labels
from gfm_pipeline.core.contracts.properties.attributes import BUILT_IN, Attribute
from gfm_pipeline.core.contracts.targets import ENERGY, OF_MEAN, Level, References
from gfm_pipeline.core.errors import DataError


@dataclass(frozen=True)
class GraphTable:
    """All structures of one split with the edges inside one cutoff.

    Attributes
    ----------
    dataset
        Branch of the model these structures belong to.
    z, pos
        Atomic numbers [N] int64, positions [N, 3] float32.
    graph_labels, atom_labels
        Labels by name of a target, of structures [G, ...] and of atoms [N, ...], minus their references, subtracted in
        float64; NaN for missing labels.
    cell
        Lattice vectors as rows [G, 3, 3], float32; zero along directions that are not periodic.
    attributes
        Total charge (e), spin multiplicity and declared attributes of structures by name [G], float32; NaN when not
        known.
    weights
        By name of a target, the weight of each structure's labels in the loss [G], float32; 1 without an entry.
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
    graph_labels: Labels
    atom_labels: Labels
    cell: NDArray[np.float32]
    attributes: Labels
    natoms: NDArray[np.int64]
    atom_start: NDArray[np.int64]
    nedges: NDArray[np.int64]
    edge_start: NDArray[np.int64]
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    shift: NDArray[np.float32]
    weights: Labels = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.natoms)

    @property
    def avg_neighbours(self) -> float:
        """Mean number of neighbours per atom."""
        return len(self.src) / max(1, len(self.z))

    def degrees(self) -> NDArray[np.int64]:
        """Return the number of neighbours of each atom [N]."""
        return np.bincount(np.repeat(self.atom_start, self.nedges) + self.dst, minlength=len(self.z))

    def label_counts(self) -> dict[str, NDArray[np.int64]]:
        """Return the number of known labels per target and structure [G]: 0 or 1, or the number over its atoms."""
        offsets = np.append(self.atom_start, len(self.z))
        return {name: known_labels(labels) for name, labels in self.graph_labels.items()} | {
            name: known_labels(labels, offsets) for name, labels in self.atom_labels.items()
        }

    @classmethod
    def build(
        cls,
        columns: Columns,
        cutoff: float | None,
        dataset_index: int,
        references: References,
        stored: Packed | None = None,
        neighbor_list: NeighborListFn = build_edges,
        attributes: Sequence[Attribute] = (),
    ) -> GraphTable:
        """List the neighbours of every structure, or choose from stored ones, and subtract references.

        Parameters
        ----------
        columns
            The structures.
        cutoff
            Angstrom; None: no edges.
        dataset_index
            Branch of the model these structures belong to.
        references
            Values to subtract from the labels of each target.
        stored
            Stored edges of these structures, within ``cutoff`` or more.
        neighbor_list
            Finds edges that are not stored.
        attributes
            The columns that are graph attributes, and no labels.

        Raises
        ------
        DataError
            When an element has no reference, or a cell has no volume.
        IntegrityError
            When the stored edges belong to other structures.
        """
        graph_labels, atom_labels = dict(columns.graph_labels), dict(columns.atom_labels)
        declared = {a.name: graph_labels.pop(a.name) for a in attributes if a.name in graph_labels}
        for name, reference in references.items():
            if reference and name in atom_labels:
                zero = reference_values(columns, reference, name, Level.ATOM)
                atom_labels[name] = (atom_labels[name] - zero).astype(np.float32)
            elif reference and name in graph_labels:
                graph_labels[name] = graph_labels[name] - reference_values(columns, reference, name, Level.GRAPH)
        single = {name: array.astype(np.float32) for name, array in graph_labels.items() if name != ENERGY.name}
        if cutoff is None:
            edges = Edges.none(len(columns))
        else:
            edges = (
                neighbor_list(columns, cutoff)
                if stored is None
                else select_edges(columns, stored, cutoff, neighbor_list)
            )
        return cls(
            dataset=dataset_index,
            z=columns.numbers.astype(np.int64),
            pos=columns.pos,
            graph_labels=graph_labels | single,
            atom_labels={name: array.astype(np.float32, copy=False) for name, array in atom_labels.items()},
            cell=columns.cell * columns.pbc[:, :, None],
            attributes=_attributes(columns.graph_attr)
            | {name: values.astype(np.float32) for name, values in declared.items()},
            natoms=columns.natoms,
            atom_start=columns.offsets[:-1],
            nedges=edges.nedges,
            edge_start=np.cumsum(edges.nedges) - edges.nedges,
            src=edges.src,
            dst=edges.dst,
            shift=edges.shift,
            weights=columns.weights,
        )


def _attributes(values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the built-in attributes of structures from values [G, A], NaN for values that mean unknown."""
    return {
        one.name: np.where(values[:, k] == one.unknown, np.float32(np.nan), values[:, k])
        if one.unknown is not None
        else values[:, k]
        for k, one in enumerate(BUILT_IN)
    }


def reference_values(
    columns: Columns, reference: Mapping[str, float], target: str, level: Level
) -> NDArray[np.float64]:
    """Return the references of the labels of a scalar target, per structure [G] or atom [N].

    Raises
    ------
    DataError
        When an element has no reference.
    """
    if OF_MEAN in reference:
        return np.full(len(columns) if level is Level.GRAPH else len(columns.numbers), reference[OF_MEAN])
    of_element = np.full(256, np.nan)
    for symbol, value in reference.items():
        of_element[atomic_numbers[symbol]] = value
    found: NDArray[np.float64] = of_element.take(columns.numbers)
    if np.isnan(found).any():
        missing = ", ".join(chemical_symbols[z] for z in np.unique(columns.numbers[np.isnan(found)]))
        raise DataError(f"There is no reference {target} for {missing}.", "Ingest the dataset again.")
    if level is Level.ATOM or not len(columns):
        return found
    total: NDArray[np.float64] = np.add.reduceat(found, columns.offsets[:-1])
    return total
