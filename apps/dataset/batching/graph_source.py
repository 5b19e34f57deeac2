"""Training structures: a split in memory, or a split on disk that is read on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.batching.graph_table import GraphTable
from gfm_pipeline.apps.dataset.neighbors.edges import NeighborListFn, build_edges
from gfm_pipeline.apps.dataset.store.dataset import Dataset
from gfm_pipeline.apps.dataset.store.index import Facts, GraphIndex
from gfm_pipeline.apps.dataset.store.rows import BlockReader
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.targets import References

Indices = NDArray[np.int64]


class GraphSource(Protocol):
    """A source of graphs.

    Attributes
    ----------
    block
        Graphs per block, which is read at once; None: all graphs are in memory.
    """

    block: int | None

    def __len__(self) -> int: ...

    def facts(self, graphs: Indices) -> Facts:
        """Return the facts about ``graphs`` [n] that are available without reading them."""
        ...

    def table(self, graphs: Indices) -> tuple[GraphTable, Indices]:
        """Return a table with ``graphs`` [n], which ascend without repetition, and their positions in it [n].

        Raises
        ------
        GFMError
            When they cannot be read or have no neighbour list.
        """
        ...

    def close(self) -> None:
        """Close open files."""
        ...


def read_table(
    dataset: Dataset,
    split: Split,
    cutoff: float,
    dataset_index: int,
    references: References,
    graphs: Indices | None = None,
    neighbor_list: NeighborListFn = build_edges,
) -> GraphTable:
    """Read a split into memory, or its ascending ``graphs``, with stored edges if they reach far enough.

    ``neighbor_list`` finds edges that are not stored.

    Raises
    ------
    GFMError
        When they cannot be read or have no neighbour list.
    """
    columns, edges = dataset.columns(split, graphs), dataset.edges(split, cutoff)
    stored = None if edges is None else edges.read(np.arange(len(columns)) if graphs is None else graphs)
    attributes = dataset.statistics.attributes
    return GraphTable.build(columns, cutoff, dataset_index, references, stored, neighbor_list, attributes)


class InMemorySource:
    """A split in memory; see `GraphSource`."""

    block: int | None = None

    def __init__(self, table: GraphTable) -> None:
        self._table = table
        self._known = table.label_counts()

    def __len__(self) -> int:
        return len(self._table)

    def facts(self, graphs: Indices) -> Facts:
        """See `GraphSource.facts`."""
        table = self._table
        known = {target: counts[graphs] for target, counts in self._known.items()}
        return Facts(table.natoms[graphs], table.nedges[graphs], known)

    def table(self, graphs: Indices) -> tuple[GraphTable, Indices]:
        """See `GraphSource.table`."""
        return self._table, graphs

    def close(self) -> None:
        """See `GraphSource.close`."""


class DiskSource:
    """A split that stays on disk; see `GraphSource`.

    Parameters
    ----------
    dataset, split
        What to read.
    index
        Of the split.
    cutoff, dataset_index, references
        See `GraphTable.build`.
    window
        Structures shuffled together: whole blocks are read, and kept for one window. 0: only the requested graphs are
        read, which is less data for a reader of few graphs per block.
    neighbor_list
        See `GraphTable.build`; runs in the thread that calls `table`.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        index: GraphIndex,
        cutoff: float | None,
        dataset_index: int,
        references: References,
        window: int,
        neighbor_list: NeighborListFn = build_edges,
    ) -> None:
        self._neighbor_list = neighbor_list
        self._index, self._cutoff, self._dataset, self._references = index, cutoff, dataset_index, references
        self._edges = None if cutoff is None else dataset.edges(split, cutoff)
        self._rows = dataset.rows(split)
        self._attributes = dataset.statistics.attributes
        self.block: int | None = self._rows.block
        # at the end of a window, blocks of two windows are needed
        self._reader = BlockReader(self._rows, 2 * max(1, window // self._rows.block)) if window else self._rows

    def __len__(self) -> int:
        return len(self._index)

    def facts(self, graphs: Indices) -> Facts:
        """See `GraphSource.facts`."""
        return self._index.facts(graphs, self._cutoff)

    def table(self, graphs: Indices) -> tuple[GraphTable, Indices]:
        """See `GraphSource.table`."""
        columns = self._reader.read(graphs)
        stored = None if self._edges is None else self._edges.read(graphs)
        table = GraphTable.build(
            columns,
            self._cutoff,
            self._dataset,
            self._references,
            stored,
            self._neighbor_list,
            self._attributes,
        )
        return table, np.arange(len(graphs))

    def close(self) -> None:
        """See `GraphSource.close`."""
        self._rows.close()


def mean_edges(sources: Sequence[GraphSource], most: int = 1024) -> float:
    """Return the mean number of edges of a graph over the first ``most`` graphs of each source."""
    counts = [source.facts(np.arange(min(len(source), most), dtype=np.int64)).nedges for source in sources]
    every = np.concatenate(counts)
    return float(every.mean()) if len(every) else 0.0
