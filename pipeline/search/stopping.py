"""When candidates of a search stop: the interface of stopping policies, and those that come along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gfm_pipeline.search.rungs import NO_OBJECTIVE, Promotion, promote


@dataclass(frozen=True)
class RungResults:
    """All that a decision at a rung may depend on.

    Parameters
    ----------
    rung
        Position of the rung.
    rungs
        Graphs seen at each rung of the search.
    results
        Objective (lower is better) by rung and candidate, of this rung and those before; None: diverged or failed.
    seconds
        How long the training from the rung before took, by rung and candidate.
    entrants
        Candidates that finished the rung since the last decision; each is promoted or stopped by this one.
    already
        Those that earlier decisions promoted from this rung.
    reduction
        ``search.reduction`` of the workflow.
    """

    rung: int
    rungs: tuple[int, ...]
    results: Mapping[int, Mapping[str, float | None]]
    seconds: Mapping[int, Mapping[str, float]]
    entrants: tuple[str, ...]
    already: frozenset[str]
    reduction: float

    @property
    def objectives(self) -> Mapping[str, float | None]:
        """Objectives of all that finished the rung so far."""
        return self.results[self.rung]

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Return graphs and objective of a candidate at the rungs so far, those left out where it has none."""
        values = ((r, self.results.get(r, {}).get(name)) for r in range(self.rung + 1))
        return [(self.rungs[r], value) for r, value in values if value is not None]

    def next_seconds(self, name: str) -> float:
        """Return how long a candidate's next segment is expected to take (s): as the last one, in proportion."""
        before = self.rungs[self.rung - 1] if self.rung else 0
        last = self.rungs[self.rung] - before
        return (
            self.seconds.get(self.rung, {}).get(name, 0.0) * (self.rungs[self.rung + 1] - self.rungs[self.rung]) / last
        )

    @property
    def saved(self) -> str:
        """What stopping a candidate here saves, in words."""
        return f"{self.rungs[-1] - self.rungs[self.rung]:,} graphs saved"


class StoppingPolicy(ABC):
    """Decides which candidates continue after a rung; a pure function, so a resumed search decides the same."""

    @abstractmethod
    def promote(
        self,
        objectives: Mapping[str, float | None],
        entrants: Sequence[str],
        already: frozenset[str],
        reduction: float,
    ) -> Promotion:
        """Decide who is promoted once ``entrants`` have finished a rung.

        Parameters
        ----------
        objectives
            Objective (lower is better) of every candidate that finished the rung so far, the entrants among them; None
            for those that diverged or failed.
        entrants
            Those that finished it since the last decision; each is promoted or stopped by this one.
        already
            Those that earlier decisions promoted.
        reduction
            ``search.reduction`` of the workflow.
        """

    def decide(self, view: RungResults) -> Promotion:
        """Decide who is promoted, from all that is known at the rung; by default from its objectives alone."""
        return self.promote(view.objectives, view.entrants, view.already, view.reduction)

    @abstractmethod
    def most(self, candidates: int, rung: int, reduction: float) -> int:
        """Return the most of ``candidates`` that can ever train to a rung; rung 0 is all of them."""


class SuccessiveHalving(StoppingPolicy):
    """At most one in ``reduction`` of all that finished a rung ever trains on (`gfm_pipeline.search.rungs`)."""

    def promote(
        self,
        objectives: Mapping[str, float | None],
        entrants: Sequence[str],
        already: frozenset[str],
        reduction: float,
    ) -> Promotion:
        """Promote the best that no earlier decision promoted."""
        return promote(objectives, entrants, already, reduction)

    def most(self, candidates: int, rung: int, reduction: float) -> int:
        """Return one in ``reduction`` per rung."""
        return int(candidates / reduction**rung)


class NoStopping(StoppingPolicy):
    """Every candidate with a finite objective trains on: the search to compare early stopping with."""

    def promote(
        self,
        objectives: Mapping[str, float | None],
        entrants: Sequence[str],
        already: frozenset[str],  # noqa: ARG002 - nobody waits for a place
        reduction: float,  # noqa: ARG002 - nobody is left behind
    ) -> Promotion:
        """Promote all entrants but those that diverged or failed."""
        finite = {name: value for name in entrants if (value := objectives[name]) is not None}
        stopped = {name: NO_OBJECTIVE for name in entrants if name not in finite}
        return Promotion(tuple(sorted(finite, key=lambda name: (finite[name], name))), stopped)

    def most(self, candidates: int, rung: int, reduction: float) -> int:  # noqa: ARG002 - all, at every rung
        """Return all."""
        return candidates
