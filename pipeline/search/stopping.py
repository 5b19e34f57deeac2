"""When candidates of a search stop: the interface of stopping policies, and those that come along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from gfm_pipeline.search.rungs import Promotion, promote


class StoppingPolicy(ABC):
    """Decides who trains on from a rung; a pure function, so that a resumed search decides what it would have."""

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
        stopped = {name: "no finite objective (diverged or failed)" for name in entrants if name not in finite}
        return Promotion(tuple(sorted(finite, key=lambda name: (finite[name], name))), stopped)

    def most(self, candidates: int, rung: int, reduction: float) -> int:  # noqa: ARG002 - all, at every rung
        """Return all."""
        return candidates
