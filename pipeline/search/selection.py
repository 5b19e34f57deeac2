"""Selection of the members of the ensemble: the interface, and the built-in selections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gfm_pipeline.search.rungs import choose_members

if TYPE_CHECKING:
    from gfm_pipeline.search.stored_errors import StoredErrors


@dataclass(frozen=True)
class Finalist:
    """A candidate with an objective: its name, the highest rung it finished, its objective there, its algorithm."""

    name: str
    rung: int
    objective: float
    algorithm: str


def passed_over(finalists: Sequence[Finalist], chosen: Sequence[Finalist]) -> dict[str, str]:
    """Return finalists that rank above a chosen one but are not chosen, each with the reason."""
    last = max((standing(f) for f in chosen), default=None)
    if last is None:
        return {}
    names, counts = {f.name for f in chosen}, Counter(f.algorithm for f in chosen)
    worst = next(f for f in chosen if standing(f) == last)
    place = f"{worst.name} ({worst.algorithm}, rung {worst.rung}, objective {worst.objective:.4f})"
    return {
        f.name: f"passed over for {place}: {counts[f.algorithm]} of the members are {f.algorithm} already"
        for f in sorted(finalists, key=standing)
        if f.name not in names and standing(f) < last
    }


def standing(finalist: Finalist) -> tuple[int, float, str]:
    """Return the key that sorts finalists: the highest rung first, then the best objective."""
    return -finalist.rung, finalist.objective, finalist.name


class Selection(ABC):
    """Chooses the members; a pure function of the finalists."""

    @abstractmethod
    def choose(self, finalists: Sequence[Finalist], members: int, max_per_algorithm: int) -> tuple[Finalist, ...]:
        """Return ``members`` of ``finalists``, in the order of their numbers; there are at least ``members`` finalists.

        Parameters
        ----------
        finalists
            Every candidate with an objective.
        members
            Number of finalists to choose.
        max_per_algorithm
            ``converge.max_per_algorithm``; by default, the number of members.
        """


@dataclass(frozen=True)
class EnsembleRank:
    """The members that stored errors favour.

    Parameters
    ----------
    weights
        Share of each member in the ensemble; they sum to one. Members are numbered by their standing.
    likelihood
        Mean negative log-likelihood of the ensemble.
    left_out
        Considered candidates that are not members, with reasons.
    """

    weights: dict[str, float]
    likelihood: float
    left_out: dict[str, str]


class ErrorSelection(Selection):
    """A selection that also reads the stored errors of the finalists; `choose` decides where there are none."""

    @abstractmethod
    def rank(
        self,
        finalists: Sequence[Finalist],
        members: int,
        max_per_algorithm: int,
        errors: Mapping[str, StoredErrors],
    ) -> EnsembleRank:
        """Return at most ``members`` of the finalists, with weights; a pure function of the arguments.

        Parameters
        ----------
        finalists, members, max_per_algorithm
            As for `choose`.
        errors
            Stored errors by finalist, on the same structures; at least ``members`` finalists have some.
        """


class Best(Selection):
    """The highest rung first, then the best objective, with a cap on each algorithm (`choose_members`)."""

    def choose(self, finalists: Sequence[Finalist], members: int, max_per_algorithm: int) -> tuple[Finalist, ...]:
        """Return the best with a cap per algorithm, and fill remaining places without the cap."""
        known = {f.name: f for f in finalists}
        rows = [(f.name, f.rung, f.objective, f.algorithm) for f in finalists]
        return tuple(known[name] for name, _, _ in choose_members(rows, members, max_per_algorithm))


class Diverse(Selection):
    """Takes the algorithms in turn; within each, the highest rung first, then the best objective."""

    def choose(
        self,
        finalists: Sequence[Finalist],
        members: int,
        max_per_algorithm: int,  # noqa: ARG002 - the turns see to it that no algorithm has more than it must
    ) -> tuple[Finalist, ...]:
        """Give one place after the other to the algorithms in turn."""
        order = sorted(finalists, key=lambda f: (-f.rung, f.objective, f.name))
        turns: dict[str, int] = {}
        ranked = []
        for place, finalist in enumerate(order):
            turn = turns[finalist.algorithm] = turns.get(finalist.algorithm, -1) + 1
            ranked.append((turn, place, finalist))
        return tuple(finalist for _, _, finalist in sorted(ranked, key=lambda entry: entry[:2])[:members])
