"""Recommendations: nodes, size of trials, spare nodes, and the interval between checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gfm_pipeline.core.errors import GFMError
from gfm_pipeline.engine.stages import search
from gfm_pipeline.simulate.cluster import HOUR
from gfm_pipeline.simulate.result import Advice, Simulated, Variant

ENOUGH = 0.95  # share of jobs that should have spares for all failed nodes
SLOWER = 1.25  # times the shortest time: limit of cheaper choices
FACTORS = (0.5, 2.0)


@dataclass(frozen=True)
class SizeChoice:
    """A possible request: nodes per job, and per trial of the first rung; None: as in the workflow."""

    nodes: int | None = None
    trial_nodes: tuple[int, ...] | None = None

    def overrides(self) -> tuple[str, ...]:
        """Return the choice as settings of the workflow."""
        found = () if self.nodes is None else (f"allocation.nodes={self.nodes}",)
        if self.trial_nodes is None:
            return found
        return (*found, f"resources.search.nodes=[{', '.join(map(str, self.trial_nodes))}]")


def spares(rate: float, nodes: int, hours: float) -> int:
    """Return the number of spare nodes that is enough in 95 % of jobs.

    Parameters
    ----------
    rate
        Failures per node and second: they are independent, so their number has a Poisson distribution.
    nodes, hours
        Of a job.
    """
    from scipy.stats import poisson

    return int(poisson.ppf(ENOUGH, rate * nodes * hours * HOUR)) if rate else 0


def advise(first: Simulated, again: Callable[[tuple[str, ...]], Simulated], *, compare: bool) -> Advice:
    """Return the recommended request.

    Parameters
    ----------
    first
        The simulation of the request.
    again
        Repeats the simulation with further settings of the workflow; raises `GFMError` if the site cannot run them.
    compare
        Whether to simulate other numbers of nodes and trials.
    """
    allocation = first.request.resources.allocation
    hours = min(first.found.hours, allocation.hours or first.found.hours)
    needed = spares(first.simulation.cluster.rate, allocation.nodes, hours)
    interval = first.found.checkpoint.daly
    if not compare or first.request.site.scheduler.system is None:
        return Advice(needed, interval)
    others = [other for choice in choices(first) if (other := _possible(again, choice)) is not None]
    known = [_variant(one, first.found.target) for one in (first, *others)]
    return Advice(needed, interval, best(known), tuple(known))


def _possible(again: Callable[[tuple[str, ...]], Simulated], choice: SizeChoice) -> Simulated | None:
    """Return the results of a choice; None if the machine cannot run it, or the campaign fails with it."""
    try:
        found = again(choice.overrides())
    except GFMError:
        return None
    return None if found.found.failed else found


def choices(first: Simulated) -> Iterator[SizeChoice]:
    """Yield half and twice the nodes with the same trials, and half and twice the trials on the same nodes."""
    nodes, trials = first.request.resources.allocation.nodes, trial_nodes(first)
    if all(trials):
        for factor in FACTORS:
            yield SizeChoice(max(*trials, int(nodes * factor)), trials)
        for factor in FACTORS:
            scaled = tuple(max(1, round(size * factor)) for size in trials)
            if scaled != trials:
                yield SizeChoice(nodes, scaled)
    else:
        for factor in FACTORS:
            yield SizeChoice(max(1, int(nodes * factor)))


def trial_nodes(found: Simulated) -> tuple[int, ...]:
    """Return the nodes of a trial, by rung; 0: trials share nodes."""
    sizes = found.request.resources.sizes[search.NAME]
    rungs = len(found.request.loaded.model.search.rungs)
    return tuple(sizes[min(rung, len(sizes) - 1)].shape.nodes for rung in range(rungs))


def best(variants: Sequence[Variant]) -> Variant:
    """Return the variant with the fewest node-hours that takes at most a quarter longer than the fastest."""
    fastest = min(_time(v) for v in variants)
    return min((v for v in variants if _time(v) <= SLOWER * fastest), key=lambda v: (v.node_hours, v.hours))


def _time(variant: Variant) -> float:
    return variant.hours if variant.target_hours is None else variant.target_hours


def _variant(found: Simulated, target: float | None) -> Variant:
    outcome = found.found
    course = found.simulation.watcher.best
    reached = None if target is None else next((when / HOUR for when, best in course if best <= target), None)
    nodes = found.request.resources.allocation.nodes
    return Variant(nodes, trial_nodes(found), outcome.hours, reached, outcome.node_hours, outcome.occupancy)
