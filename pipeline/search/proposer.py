"""Candidates: a stratified first design, then DeepHyper's CBO by its ask-and-tell interface.

A new optimiser proposes every wave from the same results in the same order, so a proposal
is a function of (space, seed, results) alone: a replay of the journal gives the same proposals, and
no state is kept in a pickle. The settings follow measurements of DeepHyper 0.13: ``sampling`` instead of
the slow genetic optimiser, full trees, a constant exploration weight, no limit on failures, and every
batch checked for copies, because ``ask`` returns copies.
"""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from gfm_pipeline.core.records import canonical_json
from gfm_pipeline.search.imports import unchanged_root_logger, without_module
from gfm_pipeline.search.space import Choice, Range, SearchSpace

ROUNDS = 64  # of sampling, until a space counts as exhausted
MAX_PROPOSALS = 32  # constant liars refit once per point: sampling fills the rest of larger waves
_DRAWS = 2000  # rows on which the acquisition function is evaluated


@dataclass(frozen=True)
class Observation:
    """A candidate's settings and its first-rung objective; None: diverged or failed.

    ``costs``: its other objectives, if the search has several.
    """

    settings: dict[str, Any]
    objective: float | None
    costs: tuple[float | None, ...] = ()


class ProposalMethod(ABC):
    """Proposes candidates after the first design; a function of its arguments, so a replay gives the same proposals."""

    @abstractmethod
    def propose(
        self,
        space: SearchSpace,
        observations: Sequence[Observation],
        taken: Sequence[dict[str, Any]],
        n: int,
        seed: int,
    ) -> list[dict[str, Any]]:
        """Return the settings of ``n`` new candidates.

        Parameters
        ----------
        space
            Space of the proposals.
        observations
            Candidates with a known objective (lower is better), in the order of their proposals.
        taken
            Settings of all candidates so far; the method should not repeat them.
        n
            Number of candidates.
        seed
            Seed of this wave.
        """

    def first_design(self, space: SearchSpace, n: int, seed: int) -> list[dict[str, Any]]:
        """Return the settings of the first ``n`` candidates of a search, before any results."""
        return first_design(space, n, seed)


class DeepHyperCBO(ProposalMethod):
    """Bayesian optimisation by DeepHyper (`propose`)."""

    def propose(
        self,
        space: SearchSpace,
        observations: Sequence[Observation],
        taken: Sequence[dict[str, Any]],
        n: int,
        seed: int,
    ) -> list[dict[str, Any]]:
        """Give DeepHyper all results again, and ask for candidates."""
        return propose(space, observations, taken, n, seed)


class RandomSampling(ProposalMethod):
    """A stratified sample of the space that ignores the results: a baseline for proposals."""

    def propose(
        self,
        space: SearchSpace,
        observations: Sequence[Observation],  # noqa: ARG002 - it learns nothing
        taken: Sequence[dict[str, Any]],
        n: int,
        seed: int,
    ) -> list[dict[str, Any]]:
        """Sample, without copies as long as the space has other settings."""
        return propose(space, [], taken, n, seed)


def initial_count(space: SearchSpace, candidates: int) -> int:
    """Return the size of the first design: two per algorithm, at most half of all, at least one per algorithm."""
    n = len(space.algorithms)
    return min(candidates, max(n, min(2 * n, candidates // 2)))


def first_design(space: SearchSpace, n: int, seed: int) -> list[dict[str, Any]]:
    """Return ``n`` candidates' settings that take the algorithms in turn."""
    rng = np.random.default_rng((seed, 0x5EED))
    names = space.algorithms
    rows: list[dict[str, Any]] = [{}] * n
    for position, algorithm in enumerate(names):
        places = range(position, n, len(names))
        for place, row in zip(places, space.sample(len(places), rng, algorithm), strict=True):
            rows[place] = row
    return [space.settings(row) for row in rows]


def propose(
    space: SearchSpace, observations: Sequence[Observation], taken: Sequence[dict[str, Any]], n: int, seed: int
) -> list[dict[str, Any]]:
    """Return ``n`` new candidates' settings by DeepHyper's CBO.

    Parameters
    ----------
    space
        Space of the proposals.
    observations
        Candidates with a known objective (lower is better), in the order of their proposals.
    taken
        Settings of all candidates so far, which are not proposed again.
    n
        Number of candidates.
    seed
        Seed of this wave.
    """
    rng = np.random.default_rng((seed, len(taken)))
    known = {canonical_json(space.row(settings)) for settings in taken}
    chosen: list[dict[str, Any]] = []
    proposed = (
        _ask_optimiser(space, observations, min(n, MAX_PROPOSALS), seed, rng)
        if any(t.objective is not None for t in observations)
        else []
    )
    drawn = chain.from_iterable(space.sample(n, rng) for _ in range(ROUNDS))  # few, unless nearly all are known
    for row in chain(proposed, drawn):
        if len(chosen) == n:
            break
        text = canonical_json(space.canonical(row))
        if text not in known:
            known.add(text)
            chosen.append(space.settings(row))
    while len(chosen) < n:  # a space smaller than the search: repeats differ by their seed
        chosen.append(space.settings(space.sample(1, rng)[0]))
    return chosen


def _ask_optimiser(
    space: SearchSpace, observations: Sequence[Observation], n: int, seed: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Give DeepHyper all results, and ask for ``n`` rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DeepHyper and scikit-learn warn about each other's deprecations
        logging.getLogger("deephyper").setLevel(logging.ERROR)
        with without_module("mpi4py"), unchanged_root_logger():
            from deephyper.hpo import CBO, HpProblem

        seed %= 2**32  # scikit-learn accepts no larger seed
        problem = HpProblem(seed=seed)
        columns = space.columns()
        varying = {name: d for name, d in columns.items() if not (isinstance(d, Choice) and len(d.values) == 1)}
        if not varying:
            return []
        for name, dimension in varying.items():
            problem.add_hyperparameter(_deephyper(dimension), name)
        fixed = {name: d.first for name, d in columns.items() if name not in varying}

        def sampling(size: int) -> list[dict[str, Any]]:
            rows = space.sample(size, rng)
            return [{name: row[name] for name in varying} for row in rows]

        problem.set_sampling_fn(sampling)
        search = CBO(
            problem,
            random_state=seed,
            checkpoint_history_to_csv=False,
            surrogate_model="ET",
            surrogate_model_kwargs={"min_impurity_decrease": 0.0, "n_estimators": 25, "n_jobs": 1},
            acq_func="UCBd",
            acq_func_kwargs={"kappa": 1.96, "scheduler": {"type": "constant"}},
            acq_optimizer="sampling",
            acq_optimizer_kwargs={"max_total_failures": -1, "n_points": _DRAWS},
            multi_point_strategy="cl_max",
            n_initial_points=1,
        )
        search.tell([(_row(space, t.settings, varying), _score(t.objective)) for t in observations])
        rows = [space.canonical({**fixed, **row}) for row in search.ask(n)]
        return [row for row in rows if space.allows(space.settings(row))]


def _row(space: SearchSpace, settings: dict[str, Any], varying: dict[str, Any]) -> dict[str, Any]:
    row = space.row(settings)
    return {name: row[name] for name in varying}


def _score(objective: float | None) -> float | str:
    """Return the value that DeepHyper maximises; DeepHyper takes a string with an initial F as a failure."""
    return "F" if objective is None else -float(objective)


def _deephyper(dimension: Choice | Range) -> Any:
    """Return a dimension in DeepHyper's shorthand."""
    if isinstance(dimension, Choice):
        return list(dimension.values)
    low, high = (int(dimension.low), int(dimension.high)) if dimension.whole else (dimension.low, dimension.high)
    return (low, high, "log-uniform") if dimension.log else (low, high)
