"""Batches of any width by Bayesian optimisation: every point queries the same surrogate in a different way.

A batch by constant liars refits the surrogate once per point. A batch of the largest upper confidence bounds consists
almost only of copies. Here each point draws its own exploration weight, scores its own random slice of
a common pool, as one optimiser per worker would (Egele et al., arXiv:2207.00479), and takes the best free row.
The pool contains even draws of the space and, mostly, mutations and crossings of the elite: the best of all, and the
best of each algorithm, so that an algorithm with a bad start stays in the search. Some points use one algorithm only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gfm_pipeline.search.design import balanced_design, untried
from gfm_pipeline.search.encoding import Encoding, new_rows, row_keys
from gfm_pipeline.search.proposer import Observation, ProposalMethod
from gfm_pipeline.search.space import SearchSpace
from gfm_pipeline.search.surrogate import Surrogate, SurrogateModel

POOL, PER_POINT = 4096, 4  # rows of the pool: minimum, and number per point of the batch
SLICE = 64  # rows that a point scores
EVEN = 0.25  # share of even draws in the pool
GENERATIONS = 3  # of mutations, each bred from the best rows (by the surrogate) of earlier generations
ELITE, MIN_ELITE, MAX_ELITE = 0.1, 8, 64  # share of the results that are parents, and its bounds
KEPT_TO_ONE = 0.15  # share of the points that are restricted to one algorithm
CROSSED, RENAMED = 0.3, 0.05  # share of mutations with two parents; share of names that change
STEPS = (-3.0, -0.5)  # a mutation's step as powers of ten, on the scale of a column


class BatchUCB(ProposalMethod):
    """Batch Bayesian optimisation with an exploration weight and a slice of the pool per point.

    Parameters
    ----------
    exploration
        Mean of the exponentially distributed exploration weights.
    """

    # Whether settings of an algorithm that come twice in a small space are replaced by others of this algorithm.
    share_of_own = False

    def __init__(self, exploration: float = 2.0) -> None:
        self.exploration = exploration

    def propose(
        self,
        space: SearchSpace,
        observations: Sequence[Observation],
        taken: Sequence[dict[str, Any]],
        n: int,
        seed: int,
    ) -> list[dict[str, Any]]:
        """Return ``n`` candidates, distinct from each other and from those taken as long as the space has such."""
        if n <= 0:
            return []
        encoding, rng = Encoding(space), np.random.default_rng((seed, len(taken)))
        tried = encoding.encode(taken)
        if not any(t.objective is not None for t in observations):
            return encoding.decode(balanced_design(encoding, n, tried, rng, of_own=self.share_of_own))
        rows = encoding.encode([t.settings for t in observations])
        objectives = np.array([np.nan if t.objective is None else t.objective for t in observations], float)
        surrogate = self.fitted(encoding, rows, objectives, rng)
        exploration = self.exploration_after(len(rows))
        pool = self._pool(encoding, surrogate, n, rng, exploration)
        tried = np.vstack([tried, new_rows(rows, row_keys(tried))])  # ``taken`` lacks results of another search
        pool = new_rows(pool[encoding.allowed(pool)], row_keys(tried))
        chosen = self._choose(encoding, surrogate, pool, min(n, len(pool)), rng, exploration) if len(pool) else pool
        if len(chosen) < n:  # the pool had too few new rows: a small space
            chosen = np.vstack([chosen, untried(encoding, n - len(chosen), np.vstack([tried, chosen]), rng)])
        return encoding.decode(chosen)

    def first_design(self, space: SearchSpace, n: int, seed: int) -> list[dict[str, Any]]:
        """Return a Latin hypercube with an equal share for every algorithm."""
        encoding = Encoding(space)
        rng = np.random.default_rng((seed, 0x5EED))
        return encoding.decode(balanced_design(encoding, n, encoding.encode([]), rng, of_own=self.share_of_own))

    def fitted(
        self, encoding: Encoding, rows: np.ndarray, objectives: np.ndarray, rng: np.random.Generator
    ) -> SurrogateModel:
        """Return the surrogate, fitted to results."""
        return Surrogate(encoding, rows, objectives, rng)

    def exploration_after(self, results: int) -> float:  # noqa: ARG002 - a subclass may explore less with more results
        """Return the mean exploration weight after a number of results."""
        return self.exploration

    def _pool(
        self, encoding: Encoding, surrogate: SurrogateModel, n: int, rng: np.random.Generator, exploration: float
    ) -> np.ndarray:
        """Return rows to choose from: even draws, and generations of mutations of the elite."""
        size = max(POOL, PER_POINT * n)
        pool = encoding.sample(int(EVEN * size), rng)
        parents = surrogate.rows
        acquisition, _ = surrogate(parents)  # not the results themselves: they are noisy
        for _ in range(GENERATIONS):
            bred = self._bred(encoding, parents, acquisition, (size - int(EVEN * size)) // GENERATIONS, rng)
            mean, spread = surrogate(bred)
            pool, parents = np.vstack([pool, bred]), np.vstack([parents, bred])
            acquisition = np.concatenate([acquisition, mean - exploration * rng.random(len(bred)) * spread])
        return pool

    def _bred(
        self, encoding: Encoding, rows: np.ndarray, wanted: np.ndarray, n: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Return about ``n`` mutations: half from the best of all rows, half from the best rows of each algorithm."""
        order = np.argsort(wanted, kind="stable")
        elite = order[: int(np.clip(ELITE * len(order), MIN_ELITE, MAX_ELITE))]
        algorithms = encoding.algorithm(rows)[order]
        own = max(4, len(elite) // len(encoding.space.algorithms))
        groups = [order[algorithms == algorithm][:own] for algorithm in np.unique(algorithms)]
        sizes = [n - n // 2, *[n // 2 // len(groups)] * len(groups)]
        return np.vstack([mutations(encoding, rows[g], k, rng) for g, k in zip([elite, *groups], sizes, strict=True)])

    def _choose(
        self,
        encoding: Encoding,
        surrogate: SurrogateModel,
        pool: np.ndarray,
        n: int,
        rng: np.random.Generator,
        exploration: float,
    ) -> np.ndarray:
        """Return ``n`` rows of the pool, each the best free row of its slice."""
        mean, spread = surrogate(pool)
        weights = rng.exponential(exploration, n)
        slices = rng.integers(0, len(pool), (n, SLICE))
        algorithms = encoding.algorithm(pool)
        members = [np.flatnonzero(algorithms == a) for a in range(len(encoding.space.algorithms))]
        members = [rows for rows in members if len(rows)]
        for turn, point in enumerate(np.flatnonzero(rng.random(n) < KEPT_TO_ONE)):
            mine = members[turn % len(members)]
            slices[point] = mine[rng.integers(0, len(mine), SLICE)]
        scores = mean[slices] - weights[:, None] * spread[slices]
        ranked = np.take_along_axis(slices, np.argsort(scores, axis=1, kind="stable"), axis=1)
        free = np.ones(len(pool), bool)
        rest = iter(np.argsort(mean - spread, kind="stable"))
        chosen = []
        for mine in ranked:
            left = mine[free[mine]]
            pick = left[0] if len(left) else next(p for p in rest if free[p])
            free[pick] = False
            chosen.append(pick)
        return pool[chosen]


def mutations(encoding: Encoding, parents: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``n`` rows near ``parents`` (best first): move values by steps of many sizes, or take another's."""
    width = len(encoding.columns)
    first, second = (parents[(len(parents) * rng.random(n) ** 2).astype(int)] for _ in range(2))
    crossed = (rng.random((n, width)) < 0.5) & (rng.random((n, 1)) < CROSSED)
    moved = rng.random((n, width)) < rng.uniform(0.1, 1.0, (n, 1))
    moved[np.arange(n), rng.integers(0, width, n)] = True
    steps = rng.normal(size=(n, width)) * 10.0 ** rng.uniform(*STEPS, (n, 1))
    base = np.where(crossed, second, first)
    units = np.abs(encoding.units(base) + np.where(moved, steps, 0.0))
    units = np.clip(np.where(units > 1.0, 2.0 - units, units), 0.0, np.nextafter(1.0, 0.0))
    drawn = encoding.sample(n, rng)
    rows = encoding.from_units(units, canonical=False)
    for c, column in enumerate(encoding.columns):
        if column.is_name:
            rows[:, c] = np.where(rng.random(n) < RENAMED, drawn[:, c], base[:, c])
    # Columns that an algorithm uses and its parent did not use have no initial value.
    fresh = encoding.active(rows) & ~encoding.active(base)
    return encoding.canonical(np.where(fresh, encoding.sample(n, rng, encoding.algorithm(rows)), rows))
