"""Reads and collates each rank's share of every batch in advance.

Batches and their division among ranks (`assign`) are functions of the seed and the number of graphs drawn (`Sampler`).
Consecutive batches are prefetched together: the loader draws and balances them, reads the graphs of this rank at once,
builds their neighbour lists, and collates the batches. The limits of a prefetch change no batch, so training continues
from any number of graphs without the earlier batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from gfm_pipeline.apps.dataset import GraphTable, collate_batches
from gfm_pipeline.apps.dataset.batching.graph_source import GraphSource
from gfm_pipeline.apps.dataset.batching.prefetch import Prefetcher
from gfm_pipeline.apps.dataset.store.index import Facts
from gfm_pipeline.apps.train.load_balance import assign, cost
from gfm_pipeline.apps.train.sampler import Indices, Sampler
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.models.batch import Batch

PREFETCH_GRAPHS = 1024  # graphs of a rank read at once: bounds their edges in memory


@dataclass(frozen=True)
class MicroBatches:
    """One rank's share of a batch, as micro-batches, and the number of labels per target in the whole batch."""

    batches: tuple[Batch, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class PrefetchedBatches:
    """One rank's share of consecutive batches of ``size`` draws each, from draw ``first`` on."""

    first: int
    size: int
    batches: tuple[MicroBatches, ...]

    def at(self, drawn: int) -> MicroBatches | None:
        """Return the batch that begins at draw ``drawn``, or None if it was not prefetched."""
        number, rest = divmod(drawn - self.first, self.size)
        return self.batches[number] if rest == 0 and 0 <= number < len(self.batches) else None


class BatchLoader:
    """Makes this rank's share of any batch.

    Parameters
    ----------
    sources
        The datasets, in the order of the sampler.
    sampler
        Assignment of graphs to batches.
    batch_size
        Graphs per batch, over all ranks.
    rank, ranks
        Number of this rank, and number of ranks; see `assign`.
    micro_batch
        Graphs per part; None: one part.
    prefetch_graphs
        Graphs of a rank read at once.
    """

    def __init__(
        self,
        sources: Sequence[GraphSource],
        sampler: Sampler,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        micro_batch: int | None = None,
        prefetch_graphs: int = PREFETCH_GRAPHS,
    ) -> None:
        self._sources, self._sampler, self._size, self._rank, self._ranks = sources, sampler, batch_size, rank, ranks
        self._micro_batch = micro_batch
        self._steps = max(1, prefetch_graphs * ranks // batch_size)
        self._threaded = any(source.block is not None for source in sources)
        self._prefetched: PrefetchedBatches | None = None
        self._prefetcher: Prefetcher[PrefetchedBatches] | None = None

    def local_batches(self, drawn: int) -> tuple[tuple[Batch, ...], Mapping[str, int]]:
        """Return this rank's graphs of the batch that begins at draw ``drawn``.

        Parameters
        ----------
        drawn
            Graphs drawn before. Batches requested in order are prepared in advance.

        Returns
        -------
        parts
            The share in parts; empty when this rank has no graphs of the batch.
        counts
            Known labels of each target in the whole batch, of all ranks.

        Raises
        ------
        GFMError
            When the data cannot be read.
        """
        part = self._find(drawn)
        return part.batches, part.counts

    def close(self) -> None:
        """Stop the preparation of batches and close the sources."""
        self._stop()
        for source in self._sources:
            source.close()

    def _stop(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    def _find(self, drawn: int) -> MicroBatches:
        part = None if self._prefetched is None else self._prefetched.at(drawn)
        if self._prefetched is None or part is None:
            self._prefetched = self._next(drawn)
            part = self._prefetched.batches[0]
        return part

    def _next(self, drawn: int) -> PrefetchedBatches:
        if not self._threaded:
            return self.make(drawn)
        if self._prefetcher is not None:
            self._prefetched = None  # otherwise three of them would be in memory
            prefetched = self._prefetcher.get()
            if prefetched.first == drawn:
                return prefetched
            self._stop()
        self._prefetcher = Prefetcher(self._from(drawn), "batch-loader")
        return self._prefetcher.get()

    def _from(self, drawn: int) -> Iterator[PrefetchedBatches]:
        while True:
            yield self.make(drawn)
            drawn += self._steps * self._size

    def make(self, drawn: int) -> PrefetchedBatches:
        """Draw, assign and read the batches from the one that begins at draw ``drawn``."""
        table, graph = self._sampler.batch(drawn, self._steps * self._size)
        facts = self._facts(table, graph)
        known = {name: n.reshape(self._steps, self._size).sum(1).tolist() for name, n in facts.known.items()}
        draws = np.arange(len(graph)).reshape(self._steps, self._size)
        chosen: list[Indices] = list(draws)
        if self._ranks > 1:
            costs = cost(facts.natoms, facts.nedges).reshape(draws.shape)
            chosen = [row[assign(c, self._rank, self._ranks)] for row, c in zip(draws, costs, strict=True)]
        order = np.concatenate(chosen)
        tables, place = self._read(table, graph, order)
        sizes = [self._sizes(len(c)) for c in chosen]
        batches = iter(collate_batches(tables, table[order], place[order], [n for part in sizes for n in part]))
        parts = [
            MicroBatches(tuple(islice(batches, len(n))), {name: counts[k] for name, counts in known.items()})
            for k, n in enumerate(sizes)
        ]
        return PrefetchedBatches(drawn, self._size, tuple(parts))

    def _sizes(self, graphs: int) -> list[int]:
        """Return the number of graphs in each part of a share."""
        size = max(1, graphs) if self._micro_batch is None else self._micro_batch
        return [min(size, graphs - k) for k in range(0, graphs, size)]

    def _facts(self, table: Indices, graph: Indices) -> Facts:
        places = [np.flatnonzero(table == k) for k in range(len(self._sources))]
        parts = [(here, source.facts(graph[here])) for here, source in zip(places, self._sources, strict=True)]
        return Facts.placed(parts, len(graph))

    def _read(self, table: Indices, graph: Indices, mine: Indices) -> tuple[tuple[GraphTable, ...], Indices]:
        """Return a table per dataset, and the index in it of each draw in ``mine``, at its position among all draws."""
        place = np.zeros(len(graph), dtype=np.int64)
        tables = []
        for k, source in enumerate(self._sources):
            here = mine[table[mine] == k]
            graphs_to_read, inverse = np.unique(graph[here], return_inverse=True)
            found, where = source.table(graphs_to_read)
            tables.append(found)
            place[here] = where[inverse]
        return tuple(tables), place


def part_size(settings: OptimiserSettings, ranks: int, micro_batch: int | None) -> int | None:
    """Return the number of graphs per rank in memory at a time; None: its whole share of a batch."""
    if settings.accumulation == 1:
        return micro_batch
    share = max(1, -(-settings.batch_size // (ranks * settings.accumulation)))
    return share if micro_batch is None else min(share, micro_batch)
