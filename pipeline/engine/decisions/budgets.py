"""Budgets: the spent, reserved and remaining part of each limit, and the tasks that may start.

Pure functions of settings, state and the time. A task starts only if its predicted cost is available; the prediction
uses trainings of the campaign on this site. Without such trainings, any task may start while the budget is positive,
and all tasks save and stop at a limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.campaign.budget_standing import QUANTITIES, Standing
from gfm_pipeline.campaign.stage_state import StageState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.campaign.usage import HOUR, KWH, Usage, driven_within, usage
from gfm_pipeline.core.contracts.energy import EnergyUse, total
from gfm_pipeline.engine.decisions.budget_limits import limits
from gfm_pipeline.engine.decisions.decide import finished_stage
from gfm_pipeline.engine.decisions.estimates import seconds_a_graph
from gfm_pipeline.engine.decisions.requests import AnyRequest, Context
from gfm_pipeline.engine.stages.base import Stage
from gfm_pipeline.engine.stages.table import stage_named, stages_of
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.schema import SiteModel

# Less than any training takes anywhere: these refuse budgets that suffice nowhere before a first training was timed.
LEAST_TASK_SECONDS = 0.25  # to start Python and PyTorch
LEAST_SECONDS_A_GRAPH = 1e-6
LEAST_KWH_A_NODE_HOUR = 0.001  # one watt
RESERVED_SHARE = 0.25  # share of a budget for later training stages, if they may need it


@dataclass(frozen=True)
class Rates:
    """Known use per node-second of tasks, and time per graph of trainings; None: unknown."""

    seconds_a_graph: float | None
    kwh_a_node_hour: float | None


def rates(state: CampaignState, site: SiteModel, used: Usage) -> Rates:
    """Return the rates of a campaign on a site."""
    known = seconds_a_graph(state, site.name)
    energy: EnergyUse | None = total(use.energy for use in used.stages.values() if use.energy is not None)
    held = sum(use.node_seconds for use in used.stages.values())
    power = energy.joules / held / KWH * HOUR if energy is not None and held > 0 else None
    if power is None and site.energy.node_watts is not None:
        power = site.energy.node_watts / 1000.0
    return Rates(None if known is None else known[0], power)


def _amounts(rate: Rates, graphs: float, nodes: float) -> dict[str, float | None]:
    """Return the use of every quantity by trainings with this number of graphs, on this number of nodes each."""
    if rate.seconds_a_graph is None:
        return dict.fromkeys(QUANTITIES)
    hours = graphs * rate.seconds_a_graph / HOUR
    kwh = None if rate.kwh_a_node_hour is None else hours * nodes * rate.kwh_a_node_hour
    return {"node_hours": hours * nodes, "kwh": kwh, "hours": hours}


def _nodes(size: SizeClass) -> float:
    return float(size.shape.nodes or 1 / size.per_node)


class Budget:
    """The limits of a campaign at one moment.

    Parameters
    ----------
    context, state, site
        Settings, state, and machine.
    now
        Unix seconds.
    alive
        Whether a driver is running.
    """

    def __init__(
        self, context: Context, state: CampaignState, site: SiteModel, now: float, *, alive: bool = True
    ) -> None:
        self._context, self._state, self._now = context, state, now
        self._until = now if alive else state.last_event
        self._limits = tuple(limits(context.workflow))
        self._used = usage(state, now, alive=alive)
        stages = stages_of(context.workflow) if self._limits else ()
        self._todo: list[Stage] = [s for s in stages if finished_stage(context, state, s.name) is None]
        self._rates = rates(state, site, self._used)
        running = [
            (stage, task)
            for stage, task in (state.all_tasks() if self._limits else ())
            if task.status is TaskStatus.RUNNING
        ]
        self._running = [(stage, *self._of_running(stage, task.name, task.started)) for stage, task in running]

    def _of_running(self, stage: StageState, name: str, started: float) -> tuple[float, dict[str, float | None]]:
        """Return the node-seconds of a running attempt so far, and its predicted total use."""
        declared = stage_named(stage.stage)
        sizes = self._context.sizes.get(stage.stage)
        rung = 0 if declared is None else declared.rung_of(name)
        nodes = _nodes(sizes[min(rung, len(sizes) - 1)]) if sizes else 1.0
        graphs = 0.0 if declared is None else declared.graphs_of(self._context.workflow, name)
        return max(0.0, self._now - started) * nodes, _amounts(self._rates, graphs, nodes)

    def standings(self) -> tuple[Standing, ...]:
        """Return the state of every limit, including the amounts reserved for later stages."""
        return tuple(self._standing(limit, self._open_stage()) for limit in self._limits)

    def _open_stage(self) -> str:
        """Return the name of the first unfinished stage, '' when all are done."""
        return self._todo[0].name if self._todo else ""

    def _standing(self, limit: tuple[str, str, str, float], current: str) -> Standing:
        key, stage, quantity, amount = limit
        running = sum(
            max(0.0, (predicted[quantity] or 0.0) - self._elapsed(seconds, quantity))
            for of, seconds, predicted in self._running
            if stage in ("", of.stage) and quantity != "hours"
        )
        later = 0.0 if stage else self._later(quantity, amount, current)
        return Standing(key, stage, quantity, amount, self._spent(stage, quantity), running + later)

    def _elapsed(self, node_seconds: float, quantity: str) -> float:
        if quantity == "kwh":
            return node_seconds / HOUR * (self._rates.kwh_a_node_hour or 0.0)
        return node_seconds / HOUR

    def _spent(self, stage: str, quantity: str) -> float:
        running = sum(seconds for of, seconds, _ in self._running if stage in ("", of.stage))
        if not stage:
            if quantity == "hours":
                return self._used.hours
            if quantity == "node_hours":
                return self._used.node_seconds / HOUR
            energy = self._used.energy
            return (0.0 if energy is None else energy.joules / KWH) + self._elapsed(running, "kwh")
        if quantity == "hours":
            return sum(
                driven_within(self._state, s.opened, s.ended or self._until, self._until)
                for s in self._state.stages.values()
                if s.stage == stage
            )
        used = self._used.stages.get(stage)
        if quantity == "node_hours":
            return (0.0 if used is None else used.node_seconds / HOUR) + running / HOUR
        everything = None if used is None else used.all
        return (0.0 if everything is None else everything.joules / KWH) + self._elapsed(running, "kwh")

    def _later(self, quantity: str, amount: float, current: str) -> float:
        """Return the amount reserved for the training stages after the current one."""
        workflow, found = self._context.workflow, 0.0
        ahead = False
        for stage in stages_of(workflow):
            if ahead and stage.trains:
                own = workflow.budget.stages.get(stage.name)
                given = None if own is None else getattr(own, quantity)
                found += self._promise(stage, quantity, amount) if given is None else given
            ahead = ahead or stage.name == current
        return min(found, amount)

    def _promise(self, stage: Stage, quantity: str, amount: float) -> float:
        """Return the share of a stage: a part of the budget, at least its minimum need and at most its maximum use."""
        workflow = self._context.workflow
        least = self.need(stage, stage.least_graphs(workflow))[quantity]
        most = self.need(stage, stage.graphs(workflow))[quantity]
        share = max(amount * RESERVED_SHARE, least or 0.0)
        return share if most is None else min(share, most)

    def need(self, stage: Stage, graphs: float) -> dict[str, float | None]:
        """Return the use of a stage whose trainings have this total number of graphs; None: unknown."""
        size = self._context.sizes[stage.name][0]
        found = _amounts(self._rates, graphs, _nodes(size))
        at_once = max(1, size.at_a_time or self._context.slots)
        hours = found["hours"]
        return {**found, "hours": None if hours is None else hours / at_once}

    def _least(self, stage: Stage, quantity: str) -> float:
        """Return the smallest use of a stage: by the rate of known trainings, or below that of any training."""
        graphs = stage.least_graphs(self._context.workflow)
        known = self.need(stage, graphs)[quantity]
        if known is not None or not stage.trains:
            return known or 0.0
        trainings = self._context.workflow.converge.members
        seconds = trainings * LEAST_TASK_SECONDS + graphs * LEAST_SECONDS_A_GRAPH
        size = self._context.sizes[stage.name][0]
        hours = seconds / HOUR
        if quantity == "hours":
            return hours / max(1, size.at_a_time or self._context.slots)
        node_hours = hours * _nodes(size)
        power = self._rates.kwh_a_node_hour
        return node_hours * (LEAST_KWH_A_NODE_HOUR if power is None else power) if quantity == "kwh" else node_hours

    def refuses(self, request: AnyRequest) -> Standing | None:
        """Return the limit that prevents the start of a task; None: it may start."""
        declared = stage_named(request.stage)
        graphs = 0.0 if declared is None else declared.graphs_of(self._context.workflow, request.name)
        cost = _amounts(self._rates, graphs, _nodes(self._context.size_of(request)))
        for limit in self._limits:
            if limit[1] in ("", request.stage):
                found = self._standing(limit, request.stage)
                if found.left <= 0 or (cost[found.quantity] or 0.0) > found.left:
                    return found
        return None

    def exhausted(self) -> Standing | None:
        """Return a reached limit, at which all tasks must stop, or None."""
        current = self._open_stage()
        for limit in self._limits:
            if limit[1] in ("", current):
                found = self._standing(limit, current)
                if found.spent >= found.limit:
                    return found
        return None

    def cannot_finish(self) -> tuple[Standing, float] | None:
        """Return a limit that is too small for the remaining work, and the smallest sufficient value, or None.

        The minimum work: training the members to the first rung, and then each to its first opportunity to converge.
        """
        for limit in self._limits:
            standing = self._standing(limit, self._open_stage())
            mine = [s for s in self._todo if standing.stage in ("", s.name)]
            if not mine:
                continue
            least = standing.spent + sum(self._least(s, standing.quantity) for s in mine)
            if standing.limit < least or (standing.spent >= standing.limit):
                return standing, least
        return None
