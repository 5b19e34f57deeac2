"""Assigns graphs of a batch to ranks with equal work; every rank computes the same result, without communication.

A step takes 4.5 ms + 17.2 us per atom + 9.1 us per edge on one core, measured over molecules and crystals (2.7 % mean
error). The constant cost of a step is the same on every rank, so only the rest is distributed.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

ATOM_COST = 172  # tenths of a microsecond
EDGE_COST = 91
GROUP = 256  # largest number of ranks for exact distribution; more ranks first form groups


def cost(natoms: Indices, nedges: Indices) -> Indices:
    """Return the predicted cost of graphs in a step; only ratios matter."""
    return ATOM_COST * natoms + EDGE_COST * nedges


def _least_loaded(costs: list[int], bins: int) -> list[int]:
    """Return the bin of each item: each goes to the least loaded bin; costs should descend (Graham, 1969)."""
    loads = [(0, k) for k in range(bins)]
    owners = []
    for value in costs:
        load, owner = loads[0]
        heapq.heapreplace(loads, (load + value, owner))
        owners.append(owner)
    return owners


def _groups(costs: Indices, ranks: int) -> list[tuple[int, int, Indices]]:
    """Return, for each group of ranks, its first rank, number of ranks, and graphs by descending cost.

    Graphs are dealt to groups back and forth, which balances sums of many graphs at the cost of a sort.
    """
    order = np.argsort(-costs, kind="stable")
    groups = np.array_split(np.arange(ranks), -(-ranks // GROUP))
    row, column = np.divmod(np.arange(len(order)), len(groups))
    rank_of = np.where(row % 2 == 0, column, len(groups) - 1 - column)
    return [(int(members[0]), len(members), order[rank_of == k]) for k, members in enumerate(groups)]


def assign(costs: Indices, rank: int, ranks: int) -> Indices:
    """Return the ascending indices of the graphs of ``rank``, one part of `partition`.

    Parameters
    ----------
    costs
        Of each graph of the batch [B].
    rank, ranks
        Number of the rank, and number of ranks.
    """
    first, size, places = next(group for group in reversed(_groups(costs, ranks)) if rank >= group[0])
    owners = np.array(_least_loaded(costs[places].tolist(), size), dtype=np.int64)
    return np.sort(places[owners == rank - first])


def partition(costs: Indices, ranks: int) -> Indices:
    """Return the rank of each graph of a batch [B].

    In order of descending cost, each graph goes to the rank with least work (Graham, 1969). With more than `GROUP`
    ranks, graphs are first dealt back and forth to groups of ranks. With 16 graphs per rank or more, the largest load
    is within one per cent of the mean, unless single graphs cost more than that.

    Parameters
    ----------
    costs
        Of each graph of the batch [B].
    ranks
        Number of ranks.
    """
    owner = np.empty(len(costs), dtype=np.int64)
    for first, size, places in _groups(costs, ranks):
        owner[places] = _least_loaded(costs[places].tolist(), size)
        owner[places] += first
    return owner
