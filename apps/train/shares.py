"""Which rank computes which graphs of a batch: equal work, decided alike on every rank without a word between them."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

ATOM_COST = 2  # an edge costs 1: 17.2 and 9.1 microseconds were measured on one core
GROUP = 64  # ranks that work is dealt to exactly; more of them are dealt to in groups first


def cost(natoms: Indices, nedges: Indices) -> Indices:
    """Return what graphs cost to train on, in units of an edge."""
    return ATOM_COST * natoms + nedges


def share(costs: Indices, rank: int, ranks: int) -> Indices:
    """Return which of the graphs belong to ``rank``, ascending.

    The largest graph goes to the rank with least work, then the next (Graham, 1969); of more than `GROUP` ranks,
    graphs are first dealt to and fro to groups of ranks, which costs a sort instead of a heap over all ranks.

    Parameters
    ----------
    costs
        Of each graph of the batch [B].
    rank, ranks
        Which of how many.
    """
    order = np.argsort(-costs, kind="stable")
    if ranks > GROUP:
        groups = np.array_split(np.arange(ranks), -(-ranks // GROUP))
        row, column = np.divmod(np.arange(len(order)), len(groups))
        dealt = np.where(row % 2 == 0, column, len(groups) - 1 - column)
        number = next(k for k, members in enumerate(groups) if rank <= members[-1])
        order, rank, ranks = order[dealt == number], rank - int(groups[number][0]), len(groups[number])
    loads = [(0, k) for k in range(ranks)]
    mine = []
    for place in order.tolist():
        load, owner = loads[0]
        heapq.heapreplace(loads, (load + int(costs[place]), owner))
        if owner == rank:
            mine.append(place)
    return np.sort(np.array(mine, dtype=np.int64))
