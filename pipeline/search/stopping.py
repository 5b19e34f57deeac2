"""When candidates of a search stop: the interface of stopping policies, and the built-in policies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gfm_pipeline.search.rungs import NO_OBJECTIVE, Promotion, promote


@dataclass(frozen=True)
class RungResults:
    """The only inputs of a decision at a rung.

    Parameters
    ----------
    rung
        Position of the rung.
    rungs
        Graphs seen at each rung of the search.
    results
        Objective (lower is better) by rung and candidate, of this and earlier rungs; None: diverged or failed.
    seconds
        Duration of the training since the previous rung, by rung and candidate.
    entrants
        Candidates that finished the rung since the last decision; this decision promotes or stops each.
    already
        Candidates that earlier decisions promoted from this rung.
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
        """Objectives of all candidates that finished the rung so far."""
        return self.results[self.rung]

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Return graphs and objective of a candidate at the rungs so far, without rungs that have no objective."""
        values = ((r, self.results.get(r, {}).get(name)) for r in range(self.rung + 1))
        return [(self.rungs[r], value) for r, value in values if value is not None]

    def next_seconds(self, name: str) -> float:
        """Return the expected duration (s) of a candidate's next segment, in proportion to the last one."""
        before = self.rungs[self.rung - 1] if self.rung else 0
        last = self.rungs[self.rung] - before
        return (
            self.seconds.get(self.rung, {}).get(name, 0.0) * (self.rungs[self.rung + 1] - self.rungs[self.rung]) / last
        )

    @property
    def saved(self) -> str:
        """Describe the saving of stopping a candidate here."""
        return f"{self.rungs[-1] - self.rungs[self.rung]:,} graphs saved"


class StoppingPolicy(ABC):
    """Decides which candidates continue after a rung; a pure function, so a resumed search makes the same decisions.

    Attributes
    ----------
    by_order
        Whether only the order of the objectives matters, so that ranks of several objectives can replace them.
    """

    by_order: ClassVar[bool] = False

    @abstractmethod
    def promote(
        self,
        objectives: Mapping[str, float | None],
        entrants: Sequence[str],
        already: frozenset[str],
        reduction: float,
    ) -> Promotion:
        """Decide which candidates to promote after ``entrants`` have finished a rung.

        Parameters
        ----------
        objectives
            Objective (lower is better) of every candidate that finished the rung so far, the entrants among them; None
            for those that diverged or failed.
        entrants
            Candidates that finished the rung since the last decision; this decision promotes or stops each.
        already
            Candidates that earlier decisions promoted.
        reduction
            ``search.reduction`` of the workflow.
        """

    def decide(self, view: RungResults) -> Promotion:
        """Decide which candidates to promote, from all facts of the rung; by default from its objectives alone."""
        return self.promote(view.objectives, view.entrants, view.already, view.reduction)

    @abstractmethod
    def most(self, candidates: int, rung: int, reduction: float) -> int:
        """Return the largest number of ``candidates`` that can ever train to a rung; all of them for rung 0."""


class SuccessiveHalving(StoppingPolicy):
    """At most one in ``reduction`` of all candidates that finished a rung continues (`gfm_pipeline.search.rungs`)."""

    by_order = True

    def promote(
        self,
        objectives: Mapping[str, float | None],
        entrants: Sequence[str],
        already: frozenset[str],
        reduction: float,
    ) -> Promotion:
        """Promote the best candidates that no earlier decision promoted."""
        return promote(objectives, entrants, already, reduction)

    def most(self, candidates: int, rung: int, reduction: float) -> int:
        """Return one in ``reduction`` per rung."""
        return int(candidates / reduction**rung)


class NoStopping(StoppingPolicy):
    """Every candidate with a finite objective continues: a baseline for early stopping."""

    by_order = True

    def promote(
        self,
        objectives: Mapping[str, float | None],
        entrants: Sequence[str],
        already: frozenset[str],  # noqa: ARG002 - nobody waits for a place
        reduction: float,  # noqa: ARG002 - nobody is left behind
    ) -> Promotion:
        """Promote all entrants except those that diverged or failed."""
        finite = {name: value for name in entrants if (value := objectives[name]) is not None}
        stopped = {name: NO_OBJECTIVE for name in entrants if name not in finite}
        return Promotion(tuple(sorted(finite, key=lambda name: (finite[name], name))), stopped)

    def most(self, candidates: int, rung: int, reduction: float) -> int:  # noqa: ARG002 - all, at every rung
        """Return all."""
        return candidates
