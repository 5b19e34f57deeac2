"""Which graphs are in which batch: a pure function of the seed and the number of graphs drawn before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.common.errors import DataError

BLOCK = 1024  # draws in which every dataset has exactly its share

Indices = NDArray[np.int64]


def shares(sizes: Sequence[int], temperature: float) -> Indices:
    """Return how many of `BLOCK` draws each dataset has: proportional to n**(1/temperature), at least one.

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


class Sampler:
    """Draws graphs from several datasets, each shuffled without replacement within a pass over it.

    Draw k belongs to block ``k // BLOCK``; a seeded shuffle of the block deals it to a dataset, and the draws a
    dataset had before are then known in closed form. So any batch can be made without making those before it:
    resuming needs no state but the number of graphs drawn.

    Parameters
    ----------
    sizes
        Graphs of each dataset.
    temperature
        See `shares`.
    seed
        Of the run.
    """

    def __init__(self, sizes: Sequence[int], temperature: float, seed: int) -> None:
        self.sizes = tuple(int(n) for n in sizes)
        self.seed = seed
        self._shares = shares(sizes, temperature)
        self._labels = np.repeat(np.arange(len(sizes), dtype=np.int64), self._shares)
        self._block = lru_cache(maxsize=2)(self._make_block)
        self._pass = lru_cache(maxsize=2 * len(sizes))(self._make_pass)

    def _make_block(self, block: int) -> tuple[Indices, Indices]:
        """Return the dataset of each draw of a block, and the number of that dataset's draw counted from its first."""
        labels = np.random.default_rng((self.seed, 1, block)).permutation(self._labels)
        number = np.empty(BLOCK, dtype=np.int64)
        for k, share in enumerate(self._shares):
            number[labels == k] = block * int(share) + np.arange(share)
        return labels, number

    def _make_pass(self, dataset: int, number: int) -> Indices:
        return np.random.default_rng((self.seed, 2, dataset, number)).permutation(self.sizes[dataset])

    def batch(self, drawn: int, size: int) -> tuple[Indices, Indices]:
        """Return the dataset [size] and the graph in it [size] of draws ``drawn`` to ``drawn + size``."""
        draws = np.arange(drawn, drawn + size)
        table, graph = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        for block in range(drawn // BLOCK, (drawn + size - 1) // BLOCK + 1):
            here = draws // BLOCK == block
            labels, number = self._block(block)
            within = draws[here] - block * BLOCK
            table[here], graph[here] = labels[within], number[within]
        for k in np.unique(table):
            here = table == k
            turns, place = np.divmod(graph[here], self.sizes[k])
            graph[here] = [self._pass(int(k), int(t))[p] for t, p in zip(turns, place, strict=True)]
        return table, graph
