"""Batches gathered from tables of structures, without a loop over structures, atoms or edges.

The data of several batches are gathered at once, in the order of the batches, which are then pieces of the same arrays.
For small structures, calls cost more than copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.batching.graph_table import GraphTable
from gfm_pipeline.apps.dataset.store.columns import Labels, flat_ranges
from gfm_pipeline.models.batch import Batch

AT_ONCE = 1 << 20  # edges, or atoms, gathered together: bounds the memory in addition to tables and batches

Indices = NDArray[np.int64]


def collate(tables: Sequence[GraphTable], table_index: Indices, graph_index: Indices) -> Batch:
    """Gather structures into one batch, in the order given.

    Parameters
    ----------
    tables
        The tables to which the indices refer.
    table_index, graph_index
        Table of each structure, and its index there [B].

    Returns
    -------
    Batch
        Floating tensors are float32; labels are minus their references.
    """
    return collate_batches(tables, table_index, graph_index, [len(graph_index)])[0]


def collate_batches(
    tables: Sequence[GraphTable], table_index: Indices, graph_index: Indices, sizes: Sequence[int]
) -> list[Batch]:
    """Gather structures into consecutive batches of ``sizes``, each as from `collate`."""
    drawn = _Drawn.of(tables, np.asarray(table_index), np.asarray(graph_index))
    ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
    found: list[Batch] = []
    for first, last in _groups(drawn, ends):
        begin = int(ends[first - 1]) if first else 0
        found += _cut(tables, drawn.part(begin, int(ends[last - 1])), ends[first:last] - begin)
    return found


@dataclass(frozen=True)
class _Drawn:
    """Drawn structures [B]: table, first atom and edge there, their numbers, attributes, labels and weights."""

    table: Indices
    natoms: Indices
    atom_start: Indices
    nedges: Indices
    edge_start: Indices
    dataset: Indices
    cell: NDArray[np.float32]
    attributes: dict[str, NDArray[np.float32]]
    labels: dict[str, NDArray[np.float32]]
    weights: dict[str, NDArray[np.float32]]

    @classmethod
    def of(cls, tables: Sequence[GraphTable], table: Indices, graph: Indices) -> _Drawn:
        natoms, atom_start, nedges, edge_start, dataset = (np.empty(len(graph), dtype=np.int64) for _ in range(5))
        cell = np.empty((len(graph), 3, 3), dtype=np.float32)
        attributes = _empty({name: () for t in tables for name in t.attributes}, len(graph))
        labels = _empty({name: a.shape[1:] for t in tables for name, a in t.graph_labels.items()}, len(graph))
        weights = {name: np.ones(len(graph), dtype=np.float32) for t in tables for name in t.weights}
        for k, there in enumerate(tables):
            where = slice(None) if len(tables) == 1 else np.flatnonzero(table == k)
            picked = graph[where]
            natoms[where], atom_start[where] = there.natoms[picked], there.atom_start[picked]
            nedges[where], edge_start[where] = there.nedges[picked], there.edge_start[picked]
            dataset[where], cell[where] = there.dataset, there.cell[picked]
            of_graphs = ((attributes, there.attributes), (labels, there.graph_labels), (weights, there.weights))
            for found, arrays in of_graphs:
                for name, array in arrays.items():
                    found[name][where] = array[picked]
        return cls(table, natoms, atom_start, nedges, edge_start, dataset, cell, attributes, labels, weights)

    def part(self, first: int, end: int) -> _Drawn:
        parts: dict[str, Any] = {
            name: {key: array[first:end] for key, array in held.items()} if isinstance(held, dict) else held[first:end]
            for name, held in vars(self).items()
        }
        return _Drawn(**parts)


def _empty(shapes: Mapping[str, tuple[int, ...]], rows: int) -> dict[str, NDArray[np.float32]]:
    """Return arrays of missing labels."""
    return {name: np.full((rows, *shape), np.nan, dtype=np.float32) for name, shape in shapes.items()}


def _groups(drawn: _Drawn, ends: Indices) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each run of batches that are gathered together."""
    rows = np.concatenate([[0], np.cumsum(np.maximum(drawn.natoms, drawn.nedges))])[ends]
    first, before = 0, 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(rows, before + AT_ONCE, side="right")))
        yield first, last
        first, before = last, int(rows[last - 1])


class _Gather:
    """Rows of the tables' arrays that belong to drawn structures, in their order."""

    def __init__(self, table: Indices, starts: Indices, counts: Indices, tables: int) -> None:
        self._one = flat_ranges(starts, counts) if tables == 1 else None
        self._total, place = int(counts.sum()), np.cumsum(counts) - counts
        self._members: list[tuple[Indices, Indices]] = []
        for k in range(tables if tables > 1 else 0):
            where = np.flatnonzero(table == k)
            self._members.append((flat_ranges(starts[where], counts[where]), flat_ranges(place[where], counts[where])))

    def labels(self, tables: Sequence[Labels]) -> dict[str, NDArray[np.float32]]:
        """Return the rows of the labels of each table; NaN for missing labels."""
        if self._one is not None:
            return {name: array.take(self._one, axis=0) for name, array in tables[0].items()}
        found = _empty({name: array.shape[1:] for labels in tables for name, array in labels.items()}, self._total)
        for labels, (there, here) in zip(tables, self._members, strict=True):
            for name, array in labels.items():
                found[name][here] = array.take(there, axis=0)
        return found

    def of(self, arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        """Return the rows of one array per table; `take` copies rows twice as fast as indexing with an array."""
        if self._one is not None:
            return arrays[0].take(self._one, axis=0)
        found = np.empty((self._total, *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        for array, (there, here) in zip(arrays, self._members, strict=True):
            found[here] = array.take(there, axis=0)
        return found


def _cut(tables: Sequence[GraphTable], drawn: _Drawn, ends: Indices) -> list[Batch]:
    """Gather ``drawn`` and cut it into batches that end with structures ``ends``."""
    graphs = np.diff(ends, prepend=0)
    begin = ends - graphs
    natoms, nedges = drawn.natoms, drawn.nedges
    atom, edge = (np.concatenate([[0], np.cumsum(n)]) for n in (natoms, nedges))  # of each structure, the first
    in_batch = atom[:-1] - np.repeat(atom[begin], graphs)
    graph = np.repeat(np.arange(len(natoms)) - np.repeat(begin, graphs), natoms)
    atoms = _Gather(drawn.table, drawn.atom_start, natoms, len(tables))
    z, pos = (atoms.of([getattr(t, name) for t in tables]) for name in ("z", "pos"))
    atom_labels = atoms.labels([t.atom_labels for t in tables])
    edges = _Gather(drawn.table, drawn.edge_start, nedges, len(tables))
    src, dst, shift = (edges.of([getattr(t, name) for t in tables]) for name in ("src", "dst", "shift"))
    if len(src):
        first = np.repeat(in_batch, nedges)
        src, dst = src + first, dst + first
    bounds = (np.diff(atom[ends], prepend=0), np.diff(edge[ends], prepend=0), graphs)
    of_atoms, of_edges, of_graphs = (n.tolist() for n in bounds)
    by_atom = _split({"z": z, "pos": pos, "graph": graph}, of_atoms)
    by_edge = _split({"edge_src": src, "edge_dst": dst, "edge_shift": shift}, of_edges)
    by_graph = _split({"natoms": natoms, "dataset": drawn.dataset, "cell": drawn.cell}, of_graphs)
    attributes, weights = _split(drawn.attributes, of_graphs), _split(drawn.weights, of_graphs)
    labels = _split(drawn.labels, of_graphs), _split(atom_labels, of_atoms)
    return [
        Batch(
            **{name: pieces[k] for name, pieces in (by_atom | by_edge | by_graph).items()},
            attributes={name: pieces[k] for name, pieces in attributes.items()},
            labels={name: pieces[k] for name, pieces in (labels[0] | labels[1]).items()},
            weights={name: pieces[k] for name, pieces in weights.items()},
        )
        for k in range(len(ends))
    ]


def _split(arrays: Mapping[str, NDArray[Any]], sizes: list[int]) -> dict[str, tuple[torch.Tensor, ...]]:
    return {name: torch.split(torch.from_numpy(array), sizes) for name, array in arrays.items()}
