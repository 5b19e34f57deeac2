"""The result of a simulation, in figures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from gfm_pipeline.api.run_request import ResolvedRun
from gfm_pipeline.simulate.campaign_run import Simulation
from gfm_pipeline.simulate.cluster import HOUR
from gfm_pipeline.simulate.ledger import IDLE, Use
from gfm_pipeline.simulate.recorded import Recorded
from gfm_pipeline.simulate.scenario import ScenarioModel

NEAR_BEST = 1.05  # times the best objective: the target where none is given


@dataclass(frozen=True)
class CheckpointInterval:
    """How often trainings should save: seconds.

    Parameters
    ----------
    nodes
        Of the largest training.
    mean_hours
        Between two failures of its nodes; None: none fail.
    seconds
        To save a checkpoint.
    used
        Between two checkpoints, in this simulation.
    young, daly
        The best interval by the first order (Young, 1974) and by the higher order (Daly, 2006); None: none fail.
    lost_share
        Of the time of that training, that saving and work done again take at the interval used, to first order.
    """

    nodes: int
    mean_hours: float | None
    seconds: float
    used: float
    young: float | None
    daly: float | None
    lost_share: float


@dataclass(frozen=True)
class Variant:
    """What a choice comes to: hours to the end and to the target (None: never), node-hours, occupancy."""

    nodes: int
    trial_nodes: tuple[int, ...]
    hours: float
    target_hours: float | None
    node_hours: float
    occupancy: float


@dataclass(frozen=True)
class Advice:
    """What to ask for.

    Parameters
    ----------
    spare
        Nodes of a job to keep for those that fail.
    checkpoint_seconds
        Between two checkpoints of the largest training; None: no node fails.
    best
        The choice of nodes and trials that is cheapest of those not much slower than the fastest; None: none were
        compared.
    variants
        All that were compared, the one that was asked for first.
    """

    spare: int
    checkpoint_seconds: float | None
    best: Variant | None = None
    variants: tuple[Variant, ...] = ()


@dataclass(frozen=True)
class SimulationOutcome:
    """The results of a simulation; times are simulated unless described otherwise.

    Parameters
    ----------
    outcome
        ``done``, or why not.
    hours
        From the first submission to the end; of these the campaign waited ``waited_hours`` without any node.
    jobs, node_hours, kwh
        Batch jobs, what they held, and energy by the site's power model; None: it has none.
    occupancy, steady_occupancy
        Share of node time at work: of all nodes of all jobs, and of nodes that are no spare ones while the machine was
        full; None: it never was.
    uses
        Node-hours by what they were spent on.
    driver_share
        Of all node time, idle since the driver had not come to it.
    completions, candidates, failures
        Tasks that ended, candidates proposed, nodes that failed.
    target, target_hours, best
        An objective, when it was reached (None: never), and the best one (None: no training ended well).
    checkpoint
        How often to save.
    processor_seconds
        That the simulation itself took, of this machine.
    scenario
        What was assumed, fitted values included.
    recorded_hours, recorded_occupancy
        Of the campaign that was fitted to; None: there was none.
    advice
        What to ask for.
    """

    outcome: str
    site: str
    nodes: int
    hours: float
    waited_hours: float
    jobs: int
    node_hours: float
    kwh: float | None
    occupancy: float
    steady_occupancy: float | None
    uses: dict[str, float]
    driver_share: float
    completions: int
    candidates: int
    failures: int
    target: float | None
    target_hours: float | None
    best: float | None
    checkpoint: CheckpointInterval
    processor_seconds: float = 0.0
    scenario: dict[str, Any] = field(default_factory=dict)
    recorded_hours: float | None = None
    recorded_occupancy: float | None = None
    advice: Advice | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {"schema_version": 1, **asdict(self), "idle_node_hours": self.idle_hours}

    @property
    def idle_hours(self) -> dict[str, float]:
        """Node-hours that nodes were idle, by why."""
        return {str(use): self.uses[use] for use in IDLE if self.uses.get(use)}


@dataclass(frozen=True)
class Simulated:
    """A simulation that has ended: what it found, what it was, and what it simulated."""

    found: SimulationOutcome
    simulation: Simulation
    request: ResolvedRun


def result_of(
    simulation: Simulation, outcome: str, processor_seconds: float, known: Recorded | None = None
) -> SimulationOutcome:
    """Return what a simulation found that has ended; ``known``: the campaign that it was fitted to."""
    ledger, scenario, request = simulation.ledger, simulation.scenario, simulation.request
    total = ledger.total()
    uses = {str(use): ledger.seconds[use] / HOUR for use in Use if ledger.seconds[use] > 0.0}
    target, reached, best = _target(simulation, scenario)
    jobs = simulation.jobs.all
    now = simulation.clock.now
    waits = [(job.eligible, job.started if job.started is not None else job.ended) for job in jobs]
    waited = sum((now if until is None else until) - since for since, until in waits if since is not None)
    return SimulationOutcome(
        outcome=outcome,
        site=request.site.name,
        nodes=request.resources.allocation.nodes,
        hours=simulation.clock.now / HOUR,
        waited_hours=waited / HOUR / max(1, request.resources.allocation.blocks),
        jobs=sum(job.started is not None for job in jobs),
        node_hours=total / HOUR,
        kwh=_kwh(simulation, total),
        occupancy=ledger.occupancy(),
        steady_occupancy=ledger.steady(),
        uses=uses,
        driver_share=ledger.seconds[Use.DRIVER] / total if total else 0.0,
        completions=simulation.watcher.completions,
        candidates=simulation.watcher.candidates,
        failures=simulation.cluster.failed,
        target=target,
        target_hours=reached,
        best=best,
        checkpoint=checkpoint_interval(simulation),
        processor_seconds=processor_seconds,
        scenario=scenario.model_dump(mode="json"),
        recorded_hours=None if known is None else known.hours,
        recorded_occupancy=None if known is None else known.occupancy,
    )


def _kwh(simulation: Simulation, total: float) -> float | None:
    """Return the energy of all nodes by the power model of the site, or of the scenario where it has no idle power."""
    energy = simulation.request.site.energy
    if energy.node_watts is None:
        return None
    idle_watts = energy.idle_node_watts or simulation.scenario.power.idle_share * energy.node_watts
    busy = total * simulation.ledger.occupancy()
    return float((busy * energy.node_watts + (total - busy) * idle_watts) / 3.6e6 * energy.pue)


def _target(simulation: Simulation, scenario: ScenarioModel) -> tuple[float | None, float | None, float | None]:
    """Return the objective to reach, when it was (h), and the best one."""
    course = simulation.watcher.best
    best = course[-1][1] if course else None
    target = scenario.target if scenario.target is not None else None if best is None else NEAR_BEST * best
    reached = None if target is None else next((when for when, found in course if found <= target), None)
    return target, None if reached is None else reached / HOUR, best


def young(seconds: float, mean: float) -> float:
    """Return Young's interval (s) between checkpoints that take ``seconds``, for failures ``mean`` seconds apart."""
    return math.sqrt(2.0 * seconds * mean)


def daly(seconds: float, mean: float) -> float:
    """Return Daly's interval of higher order (s), without the checkpoint itself."""
    if seconds >= 2.0 * mean:
        return mean
    ratio = seconds / (2.0 * mean)
    return young(seconds, mean) * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - seconds


def checkpoint_interval(simulation: Simulation) -> CheckpointInterval:
    """Return the best interval between checkpoints of the largest training, beside the one that was used."""
    cost, watcher = simulation.scenario.cost, simulation.watcher
    nodes = max(1, watcher.largest)
    rate = simulation.cluster.rate * nodes
    seconds, used = cost.checkpoint_seconds, simulation.programs.checkpoint_every
    again = rate * (used / 2.0 + cost.startup_seconds + simulation.scenario.failures.detect_seconds)
    lost = (seconds / used if used else 0.0) + again
    if not rate:
        return CheckpointInterval(nodes, None, seconds, used, None, None, lost)
    mean = 1.0 / rate
    return CheckpointInterval(nodes, mean / HOUR, seconds, used, young(seconds, mean), daly(seconds, mean), lost)
