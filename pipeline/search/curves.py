"""Stopping policies that use more than the last rung: median, fixed, extrapolation, gain per cost.

Each policy decides from `RungResults`, which follow from the journal alone. The reason of a stop names the criterion's
value, the missed rank or threshold, and the number of saved graphs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from gfm_pipeline.search.rungs import NO_OBJECTIVE, Promotion
from gfm_pipeline.search.stopping import RungResults, StoppingPolicy


class ViewPolicy(StoppingPolicy):
    """A policy that sees only the results of one rung."""

    def promote(
        self,
        objectives: Mapping[str, float | None],
        entrants: Sequence[str],
        already: frozenset[str],
        reduction: float,
    ) -> Promotion:
        """Decide with the objectives of one rung alone, as if it were the last but one."""
        return self.decide(RungResults(0, (1, 2), {0: objectives}, {}, tuple(entrants), already, reduction))


class MedianStopping(ViewPolicy):
    """Candidates no worse than the median of all that finished the rung continue (Golovin et al., KDD 2017)."""

    by_order = True

    def decide(self, view: RungResults) -> Promotion:
        """Promote the entrants no worse than the median."""
        values = [value for value in view.objectives.values() if value is not None]
        if not values:
            return Promotion((), dict.fromkeys(view.entrants, NO_OBJECTIVE))
        median = statistics.median(values)
        return _split(view, lambda value: value <= median, f"above the median {median:.4f} of {len(values)}")

    def most(self, candidates: int, rung: int, reduction: float) -> int:  # noqa: ARG002 - later ones may all be better
        """Return all."""
        return candidates


class FixedBudget(StoppingPolicy):
    """Decides once: the best one in ``keep`` after the first rung train to the last rung, and the others stop.

    Egele et al. (arXiv:2404.04111) found that this matches policies that decide many times.

    Parameters
    ----------
    keep
        One in ``keep`` candidates continues after the first rung.
    """

    by_order = True

    def __init__(self, keep: float = 9.0) -> None:
        self.keep = keep

    def decide(self, view: RungResults) -> Promotion:
        """Promote the best after the first rung, and all after later rungs."""
        if view.rung:
            return _split(view, lambda _: True, "")
        return capped(view, {n: v for n, v in view.objectives.items() if v is not None}, self.keep, "objective")

    def promote(
        self,
        objectives: Mapping[str, float | None],
        entrants: Sequence[str],
        already: frozenset[str],
        reduction: float,
    ) -> Promotion:
        """Decide as after the first rung."""
        return self.decide(RungResults(0, (1, 2), {0: objectives}, {}, tuple(entrants), already, reduction))

    def most(self, candidates: int, rung: int, reduction: float) -> int:  # noqa: ARG002 - it has one of its own
        """Return all at the first rung, one in ``keep`` after it."""
        return candidates if rung == 0 else int(candidates / self.keep)


class ExtrapolatedCurves(ViewPolicy):
    """The capped promotion of `asha`, by a power law's prediction of the objective at the last rung.

    After the first rung there is no curve yet, so the objective itself decides.
    """

    def decide(self, view: RungResults) -> Promotion:
        """Promote the candidates with the best expected final objective."""
        expected = {
            name: extrapolated(view.curve(name), view.rungs[-1])
            for name, value in view.objectives.items()
            if value is not None
        }
        return capped(view, expected, view.reduction, "objective" if view.rung == 0 else "expected objective")

    def most(self, candidates: int, rung: int, reduction: float) -> int:
        """Return one in ``reduction`` per rung."""
        return int(candidates / reduction**rung)


class GainPerCost(ViewPolicy):
    """The capped promotion of `asha`, by the expected gain per second of the next rung.

    The gain is the best objective of this rung minus a power law's prediction for the next rung. Candidates without an
    expected gain come after all others, in the order of their objectives. The seconds are those
    of the last segment, in proportion. All candidates of a rung train on the same number of equal nodes, so seconds
    measure node-hours and, if the power is equal, kWh.
    """

    def decide(self, view: RungResults) -> Promotion:
        """Promote the candidates with the most gain per cost."""
        known = {name: value for name, value in view.objectives.items() if value is not None}
        best = min(known.values(), default=0.0)
        scores = {}
        for name, value in known.items():
            gain = best - extrapolated(view.curve(name), view.rungs[view.rung + 1])
            seconds = view.next_seconds(name)
            # Below 0: a gain per second. From 0 on: no expected gain, so the objective decides.
            scores[name] = -gain / seconds if gain > 0.0 and seconds > 0.0 else value - best
        return capped(view, scores, view.reduction, "loss minus gain per second")

    def most(self, candidates: int, rung: int, reduction: float) -> int:
        """Return one in ``reduction`` per rung."""
        return int(candidates / reduction**rung)


def extrapolated(curve: Sequence[tuple[int, float]], graphs: int) -> float:
    """Return the objective at ``graphs`` by the power law through the last two points; never above the last point.

    Two points give no measure of their noise, so the exponent is limited to the range of trainings: at most 1.
    """
    (_, last) = curve[-1]
    if len(curve) < 2 or last <= 0.0 or curve[-2][1] <= 0.0:
        return last
    (before, was), (now, value) = curve[-2], curve[-1]
    exponent = math.log(was / value) / math.log(now / before)
    return float(value * (graphs / now) ** -min(max(exponent, 0.0), 1.0))


def capped(view: RungResults, scores: Mapping[str, float], keep: float, what: str) -> Promotion:
    """Promote the best by score, so that at most one in ``keep`` of all that finished the rung is ever promoted."""
    cut = int(len(view.objectives) / keep)
    ranked = sorted((score, name) for name, score in scores.items())
    waiting = [name for _, name in ranked if name not in view.already]
    promoted = tuple(waiting[: max(0, cut - len(view.already))])
    rank = {name: place for place, (_, name) in enumerate(ranked, start=1)}
    stopped = {}
    for name in view.entrants:
        if name not in scores:
            stopped[name] = NO_OBJECTIVE
        elif name not in promoted:
            place = f"rank {rank[name]} of {len(view.objectives)}"
            stopped[name] = f"{what} {scores[name]:.4g} is {place}; {cut} may pass; {view.saved}"
    return Promotion(promoted, stopped)


def _split(view: RungResults, passes: Callable[[float], bool], why: str) -> Promotion:
    """Promote the entrants whose objective passes the test, best first."""
    promoted, stopped = [], {}
    for name in view.entrants:
        value = view.objectives[name]
        if value is None:
            stopped[name] = NO_OBJECTIVE
        elif passes(value):
            promoted.append((value, name))
        else:
            stopped[name] = f"objective {value:.4f} is {why}; {view.saved}"
    return Promotion(tuple(name for _, name in sorted(promoted)), stopped)
