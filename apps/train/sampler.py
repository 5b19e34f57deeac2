"""Assigns graphs to batches: a pure function of the seed and the number of graphs drawn before.

A pass over a large dataset goes window by window. Its blocks on disk are shuffled, a window is a run of blocks in that
order, and the graphs of a window are shuffled. So a rank needs the blocks of one window at a time (of two at the end of
a window), and reads whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.core.errors import DataError

BLOCK = 1024  # number of draws in which every dataset has exactly its share

Indices = NDArray[np.int64]


def draws_per_block(sizes: Sequence[int], temperature: float) -> Indices:
    """Return the number of draws per dataset among `BLOCK` draws: proportional to n**(1/temperature), at least one.

    Parameters
    ----------
    sizes
        Graphs of each dataset.
    temperature
        1: proportional to size; large: equal shares.

    Raises
    ------
    DataError
        When a dataset is empty or the temperature is not positive.
    """
    if not sizes or min(sizes) < 1:
        raise DataError("A dataset to train on is empty.", "Leave it out, or give its training split structures.")
    if not temperature > 0:
        raise DataError(f"The sampling temperature must be positive, not {temperature}.")
    weights = np.asarray(sizes, dtype=np.float64) ** (1.0 / temperature)
    exact = weights / weights.sum() * (BLOCK - len(sizes))
    counts = np.floor(exact).astype(np.int64)
    short = BLOCK - len(sizes) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1  # largest remainders first
    result: Indices = counts + 1
    return result


class EpochOrder:
    """The order of the graphs in every pass over one dataset.

    Parameters
    ----------
    size
        Graphs of the dataset.
    key
        Numbers that seed the shuffles.
    block
        Graphs per block on disk (the last block may have fewer); None: the order ignores blocks.
    window
        Blocks per window (the last window of a pass may have fewer).
    """

    def __init__(self, size: int, key: tuple[int, ...], block: int | None = None, window: int = 1) -> None:
        self.size, self.key = size, key
        self.block = size if block is None else block
        self.n_blocks = -(-size // self.block)
        self.window = max(1, window)
        self._blocks = lru_cache(maxsize=2)(self._make_blocks)
        self._graphs = lru_cache(maxsize=4)(self._make_graphs)

    def _make_blocks(self, turn: int) -> tuple[Indices, Indices]:
        """Return the order of the blocks in a pass, and the start of each of its windows and the end."""
        order = np.random.default_rng((*self.key, turn)).permutation(self.n_blocks)
        lengths = np.minimum(self.block, self.size - order * self.block)
        ends = np.add.reduceat(lengths, np.arange(0, self.n_blocks, self.window)).cumsum()
        return order, np.concatenate([[0], ends])

    def _make_graphs(self, turn: int, window: int) -> Indices:
        """Return the graphs of a window of a pass, in order."""
        if self.n_blocks <= self.window:  # one window is the whole dataset
            return np.random.default_rng((*self.key, turn)).permutation(self.size)
        order, _ = self._blocks(turn)
        blocks = order[window * self.window : (window + 1) * self.window]
        graphs = np.concatenate([np.arange(b * self.block, min(self.size, (b + 1) * self.block)) for b in blocks])
        return np.random.default_rng((*self.key, turn, 1 + window)).permutation(graphs)

    def draw(self, numbers: Indices) -> Indices:
        """Return the graphs of draws ``numbers`` [n], counted from the first draw."""
        turns, places = np.divmod(numbers, self.size)
        drawn = np.empty(len(numbers), dtype=np.int64)
        for turn in np.unique(turns).tolist():
            here = np.flatnonzero(turns == turn)
            if self.n_blocks <= self.window:
                drawn[here] = self._graphs(turn, 0)[places[here]]
                continue
            starts = self._blocks(turn)[1]
            windows = np.searchsorted(starts, places[here], side="right") - 1
            for window in np.unique(windows).tolist():
                inside = here[windows == window]
                drawn[inside] = self._graphs(turn, window)[places[inside] - starts[window]]
        return drawn


class Sampler:
    """Draws graphs from several datasets, each shuffled without replacement within a pass over it.

    Draw k belongs to block ``k // BLOCK``. A seeded shuffle of the block assigns it to a dataset, and the number of the
    dataset's earlier draws follows in closed form. So any batch can be computed without the earlier ones, and resuming
    needs only the number of graphs drawn.

    Parameters
    ----------
    sizes
        Graphs of each dataset.
    temperature
        See `draws_per_block`.
    seed
        Of the run.
    blocks
        Graphs per block on disk for each dataset; None: the order ignores blocks; see `EpochOrder`.
    window
        Blocks of a window.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        temperature: float,
        seed: int,
        blocks: Sequence[int | None] | None = None,
        window: int = 1,
    ) -> None:
        self.sizes = tuple(int(n) for n in sizes)
        self.seed = seed
        self._draws = draws_per_block(sizes, temperature)
        self._labels = np.repeat(np.arange(len(sizes), dtype=np.int64), self._draws)
        known = [None] * len(self.sizes) if blocks is None else blocks
        self._orders = [
            EpochOrder(n, (seed, 2, k), block, window)
            for k, (n, block) in enumerate(zip(self.sizes, known, strict=True))
        ]
        self._block = lru_cache(maxsize=2)(self._make_block)

    def _make_block(self, block: int) -> tuple[Indices, Indices]:
        """Return the dataset of each draw of a block, and the number of the draw within that dataset."""
        labels = np.random.default_rng((self.seed, 1, block)).permutation(self._labels)
        number = np.empty(BLOCK, dtype=np.int64)
        for k, share in enumerate(self._draws):
            number[labels == k] = block * int(share) + np.arange(share)
        return labels, number

    def batch(self, drawn: int, size: int) -> tuple[Indices, Indices]:
        """Return the dataset [size] and the graph in it [size] of draws ``drawn`` to ``drawn + size``."""
        table, graph = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        done = 0
        while done < size:
            block, within = divmod(drawn + done, BLOCK)
            n = min(size - done, BLOCK - within)
            labels, number = self._block(block)
            table[done : done + n] = labels[within : within + n]
            graph[done : done + n] = number[within : within + n]
            done += n
        for k, order in enumerate(self._orders):
            here = np.flatnonzero(table == k)
            if len(here):
                graph[here] = order.draw(graph[here])
        return table, graph
