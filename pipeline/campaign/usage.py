"""The use of a campaign from its journal: node-hours and energy of tasks, idle nodes and overhead.

Tasks with a valid result, idle nodes, and the rest (overhead: attempts without a result, and nodes before their
first task and after their last) add up to the use of the nodes. If the nodes have counters, both sides are measured;
their difference shows the quality of the accounts. Idle power (measured, or the site's) fills times without counters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gfm_pipeline.campaign.events import Action, AttemptOutcome
from gfm_pipeline.campaign.stage_state import Attempt, TaskState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.energy import EnergyLabel, EnergyUse, total

HOUR = 3600.0
KWH = 3.6e6  # J
IDLE_SHARE = 0.01  # share of the counted time from which on idle power is known
IDLE_MODEL, IDLE_MEASURED, BUSY_MODEL = "idle node model", "mean idle power", "node model"


@dataclass(frozen=True)
class TaskUsage:
    """Use of the attempts of some tasks.

    Parameters
    ----------
    node_seconds
        Node-seconds of their nodes.
    energy
        Energy of attempts with a valid result; None: unknown.
    lost
        Energy of attempts without a result; None: there are none, or it is unknown.
    idle
        Energy of their nodes before they began, while no task ran there.
    graphs
        Number of graphs in their trainings.
    """

    node_seconds: float = 0.0
    energy: EnergyUse | None = None
    lost: EnergyUse | None = None
    idle: EnergyUse | None = None
    graphs: float = 0.0

    @property
    def all(self) -> EnergyUse | None:
        """Energy of all attempts, and of idle nodes before them."""
        return total(use for use in (self.energy, self.lost, self.idle) if use is not None)

    @property
    def joules_per_graph(self) -> float | None:
        """Energy of all attempts per training graph (J); None: unknown."""
        spent = total(use for use in (self.energy, self.lost) if use is not None)
        return spent.joules / self.graphs if spent is not None and self.graphs > 0 else None


@dataclass(frozen=True)
class Usage:
    """The use of a campaign so far.

    Parameters
    ----------
    node_seconds
        Node-seconds of its nodes.
    hours
        Hours with a running driver.
    stages
        Use by the tasks of each stage; results that several stages share count for the first of them.
    tasks, idle, overhead
        Energies whose sum is that of all nodes; None: unknown.
    allocation
        Energy of all nodes by their counters; None: no counter was read.
    """

    node_seconds: float
    hours: float
    stages: dict[str, TaskUsage] = field(default_factory=dict)
    tasks: EnergyUse | None = None
    idle: EnergyUse | None = None
    overhead: EnergyUse | None = None
    allocation: EnergyUse | None = None

    @property
    def energy(self) -> EnergyUse | None:
        """Total energy of tasks, idle nodes and overhead.

        A late counter moves energy from one attempt to the next, so the uncertainty is that of the nodes.
        """
        found = total(use for use in (self.tasks, self.idle, self.overhead) if use is not None)
        return found if found is None or self.allocation is None else replace(found, error=self.allocation.error)

    @property
    def difference(self) -> float | None:
        """Relative difference of tasks, idle nodes and overhead from the nodes' counters; None: no counters."""
        if self.allocation is None or self.energy is None or not self.allocation.joules:
            return None
        return self.energy.joules / self.allocation.joules - 1.0


def usage(state: CampaignState, now: float, *, alive: bool = True) -> Usage:
    """Return the use of a campaign until ``now`` (Unix seconds); ``alive``: whether its driver is running."""
    until = now if alive else state.last_event
    first: dict[str, list[TaskState]] = {}
    for stage, task in state.all_tasks():
        first.setdefault(stage.stage, []).append(task)
    stages = {name: of_tasks(tasks) for name, tasks in first.items()}
    hours = sum(max(0.0, end - begun) for begun, end in _driven(state, until)) / HOUR
    seconds = sum(max(0.0, (h.until or until) - h.since) * h.nodes for h in state.holdings)
    if not state.holdings:  # a journal of an earlier version: one node per driver
        seconds = hours * HOUR
    tasks = total(use.energy for use in stages.values() if use.energy is not None)
    lost = [use.lost for use in stages.values() if use.lost is not None]
    idle = total(use for use in (*(s.idle for s in stages.values()), *(m.idle for m in state.measured)) if use)
    accounted = None if state.measured else _accounted(state)
    if accounted is not None:
        return _attributed(accounted, seconds, hours, stages)
    unseen = _unseen(state, seconds, tasks, lost, idle)
    counted = total(measured.used for measured in state.measured)
    whole = None if counted is None else _completed(state, counted, seconds, idle)
    return Usage(seconds, hours, stages, tasks, idle, total([*lost, *unseen]), whole)


def _accounted(state: CampaignState) -> EnergyUse | None:
    """Return the energy that batch systems accounted for jobs of the campaign while it held their nodes."""
    found = []
    for name, job in state.jobs.items():
        if job.energy is None:
            continue
        driven = [(d.started, d.ended or state.last_event) for d in state.drivers if job.job and d.info.job == job.job]
        held = sum(
            ((h.until or state.last_event) - h.since) * h.nodes
            for h in state.holdings
            if h.block == name
            or any(begun <= (h.until or state.last_event) and h.since <= end for begun, end in driven)
        )
        found.append(EnergyUse(job.energy.joules, None, EnergyLabel.ATTRIBUTED, job.energy.source, held))
    return total(found)


def _attributed(accounted: EnergyUse, seconds: float, hours: float, stages: dict[str, TaskUsage]) -> Usage:
    """Distribute the accounted energy of whole jobs by node-seconds; jobs without accounts get the same rate."""
    watts = accounted.joules / accounted.node_seconds if accounted.node_seconds > 0 else 0.0
    busy = min(seconds, sum(use.node_seconds for use in stages.values()))

    def part(node_seconds: float) -> EnergyUse:
        return EnergyUse(watts * node_seconds, None, EnergyLabel.ATTRIBUTED, accounted.source, node_seconds)

    return Usage(seconds, hours, stages, part(busy), None, part(seconds - busy), part(seconds))


def of_tasks(tasks: Iterable[TaskState]) -> TaskUsage:
    """Return the use of the attempts of some tasks."""
    known = list(tasks)
    attempts = [attempt for task in known for attempt in task.history]
    counting = [a for a in attempts if _counts(a)]
    return TaskUsage(
        sum(a.seconds if a.node_seconds is None else a.node_seconds for a in attempts),
        total(a.energy for a in counting if a.energy is not None),
        total(a.energy for a in attempts if a.energy is not None and not _counts(a)),
        total(a.idle for a in attempts if a.idle is not None),
        sum(_graphs(task) for task in known),
    )


def _counts(attempt: Attempt) -> bool:
    """Return whether an attempt gave a result; divergence counts as a result."""
    return attempt.outcome in (AttemptOutcome.OK, AttemptOutcome.DIVERGED) and attempt.action in (None, Action.ACCEPT)


def _graphs(task: TaskState) -> float:
    """Return the graphs of a training itself: its result counts all graphs since the model's first training."""
    result = task.result or {}
    return float(result.get("graphs_per_second") or 0.0) * float(result.get("seconds") or 0.0)


def _driven(state: CampaignState, until: float) -> Iterable[tuple[float, float]]:
    """Yield the begin and end of each driver; a dead driver ends at the last event before the next driver."""
    for index, driver in enumerate(state.drivers):
        following = state.drivers[index + 1].started if index + 1 < len(state.drivers) else None
        end = driver.ended
        if end is None:
            end = until if following is None else min(state.last_event, following)
        yield driver.started, end


def driven_within(state: CampaignState, begun: float, ended: float, until: float) -> float:
    """Return the hours with a running driver between two moments; ``until``: end of a still running one."""
    inside = (min(ended, end) - max(begun, start) for start, end in _driven(state, until))
    return sum(max(0.0, seconds) for seconds in inside) / HOUR


def _idle_watts(state: CampaignState, idle: EnergyUse | None, seconds: float) -> tuple[float, str] | None:
    """Return the power of an idle node (W) and its basis; None: unknown."""
    if idle is not None and idle.node_seconds >= IDLE_SHARE * seconds > 0:
        return idle.joules / idle.node_seconds, IDLE_MEASURED
    info = state.drivers[-1].info if state.drivers else None
    if info is None:
        return None
    if info.idle_watts is not None:
        return info.idle_watts, IDLE_MODEL
    return None if info.node_watts is None else (info.node_watts, BUSY_MODEL)


def _by_idle_power(
    state: CampaignState, node_seconds: float, idle: EnergyUse | None, seconds: float
) -> EnergyUse | None:
    known = _idle_watts(state, idle, seconds)
    if known is None or node_seconds <= 0:
        return None
    joules, source = known[0] * node_seconds, known[1]
    label = EnergyLabel.ATTRIBUTED if source == IDLE_MEASURED else EnergyLabel.MODELLED
    return EnergyUse(joules, joules if label is EnergyLabel.ATTRIBUTED else None, label, source, node_seconds)


def _unseen(
    state: CampaignState, seconds: float, tasks: EnergyUse | None, lost: list[EnergyUse], idle: EnergyUse | None
) -> list[EnergyUse]:
    """Return the energy of nodes in the time outside of tasks and of idle nodes."""
    metered = sum(use.node_seconds for use in (tasks, idle, *lost) if use is not None)
    found = _by_idle_power(state, seconds - metered, idle, seconds)
    return [] if found is None else [found]


def _completed(state: CampaignState, counted: EnergyUse, seconds: float, idle: EnergyUse | None) -> EnergyUse:
    """Return the nodes' counted energy, and an estimate for times without counts."""
    rest = _by_idle_power(state, seconds - counted.node_seconds, idle, seconds)
    return counted if rest is None else (total([counted, rest]) or counted)
