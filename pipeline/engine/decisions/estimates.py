"""Estimates the cost of a campaign: node-hours, energy, storage; each number with its basis.

Estimates are not guarantees. They use the rate of the campaign's trainings on this site, if there are any; otherwise
the allocation is an upper bound of what one job can use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.attempts.stored_errors import largest_bytes
from gfm_pipeline.core.contracts.policies import SELECTIONS, make_policy
from gfm_pipeline.engine.resources.demand import TrainingDemand
from gfm_pipeline.engine.resources.requirements import Resources
from gfm_pipeline.engine.stages.table import stage_named, stages_of
from gfm_pipeline.search.selection import ErrorSelection, Selection
from gfm_pipeline.search.space import Choice, Dimension
from gfm_pipeline.sites.limits import counted
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.workflow.schema import WorkflowModel

PARAMETERS = 20  # of a model, in units of layers x hidden^2: the architectures have 3 to 20
CHECKPOINT_BYTES = 20  # per parameter: EMA weights for predictions; weights, EMA and AdamW's moments to continue
KEPT = 2  # checkpoints that a running attempt keeps in addition to the published one


@dataclass(frozen=True)
class Estimate:
    """A number and its basis; None: there is no basis for a number."""

    value: float | None
    basis: str


@dataclass(frozen=True)
class Estimates:
    """Estimated remaining use: node-hours, kWh and bytes."""

    node_hours: Estimate
    kwh: Estimate
    storage_bytes: Estimate


def estimate(
    workflow: WorkflowModel,
    site: SiteModel,
    resources: Resources,
    state: CampaignState,
    graphs: dict[str, int],
    input_bytes: int,
) -> Estimates:
    """Return the estimates.

    Parameters
    ----------
    workflow, site, resources, state
        The workflow, the machine, its resources, and the present state.
    graphs
        Largest number of remaining graphs in the trainings of a stage.
    input_bytes
        Size of all input files.
    """
    hours = _node_hours(site, resources, state, graphs)
    return Estimates(hours, _kwh(workflow, site, resources, hours), _storage(workflow, resources, input_bytes))


def seconds_a_graph(state: CampaignState, site: str) -> tuple[float, int] | None:
    """Return the mean time per graph (s) of the campaign's trainings on ``site``, and their number."""
    if not state.drivers or state.drivers[-1].info.site != site:
        return None
    rates = [
        rate
        for stage in state.stages.values()
        if (known := stage_named(stage.stage)) is not None and known.trains
        for task in stage.tasks.values()
        if (rate := _rate(task.result)) > 0
    ]
    return (sum(1 / rate for rate in rates) / len(rates), len(rates)) if rates else None


def _rate(result: dict[str, Any] | None) -> float:
    return float((result or {}).get("graphs_per_second") or 0.0)


def _node_hours(site: SiteModel, resources: Resources, state: CampaignState, graphs: dict[str, int]) -> Estimate:
    allocation = resources.allocation
    if not any(graphs.values()):
        return Estimate(0.0, "no training is left to run")
    known = seconds_a_graph(state, site.name)
    if known is not None:
        seconds, count = known
        used = sum(seconds * n * _nodes_a_task(resources, stage) for stage, n in graphs.items())
        return Estimate(used / 3600, f"at most; the rate of {count} trainings of this campaign on {site.name}")
    if allocation.hours is None:
        return Estimate(None, "no training of this campaign has run here yet, and nothing bounds its time")
    bound = allocation.nodes * allocation.hours * allocation.blocks
    jobs = "one job" if allocation.blocks == 1 else f"{allocation.blocks} jobs at a time"
    return Estimate(bound, f"at most, for {jobs}: {counted(allocation.nodes, 'node')} for {allocation.hours:g} h")


def _nodes_a_task(resources: Resources, stage: str) -> float:
    size = resources.sizes[stage][0]
    return float(size.shape.nodes or 1 / size.per_node)


def _kwh(workflow: WorkflowModel, site: SiteModel, resources: Resources, hours: Estimate) -> Estimate:
    """Return power model x time x power usage effectiveness of the building."""
    energy, watts = site.energy, site.energy.node_watts
    what = "" if watts is None else f"{watts:g} W a node"
    if watts is None and site.slot_watts() is not None:
        slots = next(resources.sizes[s.name][0].per_node for s in stages_of(workflow) if s.trains)
        watts = (site.slot_watts() or 0.0) * slots
        what = f"{watts:g} W for {slots} slots"
    if hours.value is None or watts is None:
        return Estimate(None, "no time is known" if watts else f"site {site.name} has no power model")
    return Estimate(
        hours.value * watts / 1000 * energy.pue, f"modelled: {what}, PUE {energy.pue:g}, the node-hours above"
    )


def _storage(workflow: WorkflowModel, resources: Resources, input_bytes: int) -> Estimate:
    space = workflow.search.space.compile()
    sides = {
        name: max(_high(space.shared[name]), *(_high(own[name]) for own in space.own.values() if name in own), 0.0)
        for name in ("hidden", "layers")
    }
    one = PARAMETERS * CHECKPOINT_BYTES * sides["layers"] * sides["hidden"] ** 2
    published = running = tasks = 0
    for stage in stages_of(workflow):
        published += stage.checkpoints(workflow)
        demand = stage.demand(workflow)
        if isinstance(demand, TrainingDemand):
            running = max(running, resources.at_a_time(stage.name))
            tasks = max(tasks, *demand.counts)
    count = published + KEPT * min(running, tasks)
    basis = f"at most {count:,} checkpoints of the largest model of search.space"
    if isinstance(make_policy(SELECTIONS, workflow.converge.selection, Selection), ErrorSelection):
        errors = largest_bytes(len(workflow.data.sources), workflow.targets)
        one += errors
        basis += f" with {errors / 1000:,.0f} kB of validation errors each"
    if input_bytes:
        basis += ", and twice the input for shards and datasets"
    return Estimate(count * one + 2 * input_bytes, basis)


def _high(dimension: Dimension) -> float:
    return float(max(dimension.values)) if isinstance(dimension, Choice) else dimension.high
