"""Early stopping: capped promotion of candidates from rung to rung, as pure functions.

Successive halving (Jamieson & Talwalkar 2016; ASHA, Li et al. 2018) with a hard cap: of all candidates
that finished a rung, at most one in ``reduction`` is ever promoted, however good later candidates are.
A decision depends only on a fixed set of results, never on the order of their arrival, so a resumed
campaign makes exactly the decisions of an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NO_OBJECTIVE = "no finite objective (diverged or failed)"


@dataclass(frozen=True)
class Promotion:
    """Promoted names (best first), and the evidence in words for each name that stops now."""

    promoted: tuple[str, ...]
    stopped: dict[str, str]


def promote(
    objectives: Mapping[str, float | None], entrants: Sequence[str], already: frozenset[str], reduction: float
) -> Promotion:
    """Decide which candidates to promote from a rung after ``entrants`` have finished it.

    Parameters
    ----------
    objectives
        Objective (lower is better) of every candidate that finished the rung in this or an earlier
        decision; None for diverged or failed ones, which are counted but never promoted.
    entrants
        Candidates that finished the rung since the last decision.
    already
        Candidates that earlier decisions promoted.
    reduction
        One in ``reduction`` candidates is promoted.
    """
    quota = int(len(objectives) / reduction) - len(already)
    ranked = sorted((value, name) for name, value in objectives.items() if value is not None)
    waiting = [name for _, name in ranked if name not in already]
    promoted = tuple(waiting[: max(0, quota)])
    rank = {name: position for position, (_, name) in enumerate(ranked, start=1)}
    cut = int(len(objectives) / reduction)
    stopped = {}
    for name in entrants:
        if name in promoted:
            continue
        value = objectives[name]
        if value is None:
            stopped[name] = NO_OBJECTIVE
        else:
            stopped[name] = f"objective {value:.4f} is rank {rank[name]} of {len(objectives)}; {cut} may pass"
    return Promotion(promoted, stopped)


def choose_members(
    finalists: Sequence[tuple[str, int, float, str]], members: int, max_per_algorithm: int
) -> tuple[tuple[str, int, float], ...]:
    """Choose the ensemble: highest rung first, then best objective, with a cap on each algorithm.

    Parameters
    ----------
    finalists
        (name, highest rung finished, objective there, algorithm) of every candidate with an objective.
    members
        Number of finalists to choose.
    max_per_algorithm
        Cap on one algorithm; lifted for the places that would otherwise stay empty.

    Returns
    -------
    (name, rung, objective) of the chosen, best first.
    """
    order = sorted(finalists, key=lambda f: (-f[1], f[2], f[0]))
    counts: dict[str, int] = {}
    chosen: list[tuple[str, int, float, str]] = []
    passed_over: list[tuple[str, int, float, str]] = []
    for finalist in order:
        algorithm = finalist[3]
        if len(chosen) < members and counts.get(algorithm, 0) < max_per_algorithm:
            counts[algorithm] = counts.get(algorithm, 0) + 1
            chosen.append(finalist)
        else:
            passed_over.append(finalist)
    chosen += passed_over[: members - len(chosen)]
    chosen.sort(key=lambda f: (-f[1], f[2], f[0]))
    return tuple((name, rung, value) for name, rung, value, _ in chosen)
