"""Several objectives at once: Pareto fronts, ranks for promotions, and scalar values for proposals.

All objectives are minimised; None is worse than any number.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Vector = Sequence[float | None]
RHO = 0.05  # share of the sum in the augmented Chebyshev norm (Knowles, IEEE Trans. Evol. Comput. 10, 50 (2006))

# Objectives of a search, by name. The first is always searched; docs/energy.md says what measures each.
OBJECTIVES: Mapping[str, str] = {
    "error": "error on the validation splits",
    "kwh": "energy of the training to a rung (kWh)",
    "seconds": "time of the training per graph (s)",
    "memory": "memory per rank (GB)",
}


def _numbers(vector: Vector) -> tuple[float, ...]:
    return tuple(math.inf if value is None or math.isnan(value) else value for value in vector)


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def fronts(vectors: Sequence[Vector]) -> list[int]:
    """Return the number of each vector's front: 0 if no vector dominates it, 1 if only those of front 0 do, ..."""
    values = [_numbers(vector) for vector in vectors]
    order = sorted(range(len(values)), key=lambda place: values[place])
    found = [0] * len(values)
    if values and len(values[0]) == 2:
        # Of each front, the smallest second value so far: they rise from front to front.
        lowest: list[float] = []
        for before, place in zip([None, *order], order, strict=False):
            if before is not None and values[before] == values[place]:
                found[place] = found[before]
                continue
            front = bisect_right(lowest, values[place][1])
            found[place] = front
            lowest[front : front + 1] = [values[place][1]]
        return found
    members: list[list[tuple[float, ...]]] = []
    for place in order:
        value = values[place]
        front = next((n for n, mine in enumerate(members) if not any(_dominates(m, value) for m in mine)), len(members))
        if front == len(members):
            members.append([])
        members[front].append(value)
        found[place] = front
    return found


def pareto_front(trials: Mapping[str, Vector]) -> tuple[str, ...]:
    """Return the names of trials that no other trial dominates, sorted by the first objective.

    Parameters
    ----------
    trials
        Objectives of each trial, all minimised; a trial with None among them is never in the front.
    """
    whole = {name: vector for name, vector in trials.items() if None not in vector}
    names = sorted(whole, key=lambda name: (_numbers(whole[name]), name))
    numbers = fronts([whole[name] for name in names])
    return tuple(name for name, front in zip(names, numbers, strict=True) if front == 0)


def ranks(trials: Mapping[str, Vector]) -> dict[str, float]:
    """Return a value by which trials are promoted: the front, and within a front more for crowded ones.

    Non-dominated sorting with crowding distances (Deb et al., IEEE Trans. Evol. Comput. 6, 182 (2002)).
    """
    names = sorted(trials)
    of_front: dict[int, list[str]] = {}
    for name, front in zip(names, fronts([trials[name] for name in names]), strict=True):
        of_front.setdefault(front, []).append(name)
    found = {}
    for front, mine in of_front.items():
        distances = _crowding({name: _numbers(trials[name]) for name in mine})
        for name in mine:
            found[name] = front + 0.5 / (1.0 + distances[name])
    return found


def _crowding(front: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """Return the distance of each trial to its neighbours in the front; infinite at the ends."""
    found = dict.fromkeys(front, 0.0)
    for k in range(len(next(iter(front.values())))):
        order = sorted(front, key=lambda name: (front[name][k], name))
        low, high = front[order[0]][k], front[order[-1]][k]
        found[order[0]] = found[order[-1]] = math.inf
        if not math.isfinite(high) or high <= low:
            continue
        for before, name, after in zip(order, order[1:], order[2:], strict=False):
            found[name] += (front[after][k] - front[before][k]) / (high - low)
    return found


def scalarised(vectors: Sequence[Vector], weights: Sequence[float]) -> list[float]:
    """Return one value per vector: the augmented Chebyshev norm of its weighted quantiles.

    Quantiles, since energies and errors differ by orders of magnitude (Egele et al., arXiv:2309.14936).
    """
    columns = []
    for values in zip(*map(_numbers, vectors), strict=True):
        ordered = sorted(values)
        columns.append([bisect_right(ordered, value) / len(ordered) for value in values])
    return [
        max(w * u for w, u in zip(weights, quantiles, strict=True))
        + RHO * sum(w * u for w, u in zip(weights, quantiles, strict=True))
        for quantiles in zip(*columns, strict=True)
    ]


def random_weights(objectives: int, rng: np.random.Generator) -> list[float]:
    """Return weights that are distributed evenly over all that sum to one."""
    return [float(weight) for weight in rng.dirichlet([1.0] * objectives)]
