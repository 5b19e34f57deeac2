"""The result of a simulation, in figures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from gfm_pipeline.api.run_request import ResolvedRun
from gfm_pipeline.simulate.campaign_run import FAILED, Simulation
from gfm_pipeline.simulate.cluster import HOUR
from gfm_pipeline.simulate.ledger import IDLE, Use
from gfm_pipeline.simulate.recorded import Recorded
from gfm_pipeline.simulate.scenario import ScenarioModel

NEAR_BEST = 1.05  # times the best objective: the default target


@dataclass(frozen=True)
class CheckpointInterval:
    """Intervals between checkpoints of trainings (s).

    Parameters
    ----------
    nodes
        Of the largest training.
    mean_hours
        Mean time between two failures of its nodes; None: no failures.
    seconds
        Time to save a checkpoint.
    used
        Interval in this simulation.
    young, daly
        The best interval to first order (Young, 1974) and to higher order (Daly, 2006); None: no failures.
    lost_share
        Share of that training's time for saving and repeated work at the used interval, to first order.
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
    """The results of a choice: hours to the end and to the target (None: never), node-hours, occupancy."""

    nodes: int
    trial_nodes: tuple[int, ...]
    hours: float
    target_hours: float | None
    node_hours: float
    occupancy: float


@dataclass(frozen=True)
class Advice:
    """The recommended request.

    Parameters
    ----------
    spare
        Number of spare nodes per job.
    checkpoint_seconds
        Interval between checkpoints of the largest training; None: no node fails.
    best
        The cheapest choice of nodes and trials that is not much slower than the fastest; None: no choices were
        compared.
    variants
        All compared choices, beginning with the requested one.
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
        Hours from the first submission to the end; ``waited_hours`` is the part without any node.
    jobs, node_hours, kwh
        Number of batch jobs, their node-hours, and energy by the site's power model; None: the site has none.
    occupancy, steady_occupancy
        Busy share of node time: of all nodes of all jobs, and of nodes except spares while the machine was
        full; None: it was never full.
    uses
        Node-hours by use.
    driver_share
        Share of all node time that was idle because the driver had not yet processed an end.
    completions, candidates, failures
        Numbers of ended tasks, proposed candidates, and failed nodes.
    target, target_hours, best
        An objective, the hours until it was reached (None: never), and the best objective (None: no training
        succeeded).
    checkpoint
        Intervals between checkpoints.
    processor_seconds
        Processor time of the simulation itself on this machine.
    scenario
        The assumptions, including fitted values.
    recorded_hours, recorded_occupancy
        Of the campaign used for the fit; None: there was none.
    advice
        The recommended request.
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
    def failed(self) -> bool:
        """Whether the simulated campaign failed."""
        return self.outcome.startswith(FAILED)

    @property
    def idle_hours(self) -> dict[str, float]:
        """Idle node-hours, by reason."""
        return {str(use): self.uses[use] for use in IDLE if self.uses.get(use)}


@dataclass(frozen=True)
class Simulated:
    """An ended simulation: its outcome, the simulation itself, and its request."""

    found: SimulationOutcome
    simulation: Simulation
    request: ResolvedRun


def result_of(
    simulation: Simulation, outcome: str, processor_seconds: float, known: Recorded | None = None
) -> SimulationOutcome:
    """Return the results of an ended simulation; ``known``: the campaign used for the fit."""
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
    """Return the energy of all nodes by the site's power model, or the scenario's if the site has no idle power."""
    energy = simulation.request.site.energy
    if energy.node_watts is None:
        return None
    idle_watts = energy.idle_node_watts or simulation.scenario.power.idle_share * energy.node_watts
    busy = total * simulation.ledger.occupancy()
    return float((busy * energy.node_watts + (total - busy) * idle_watts) / 3.6e6 * energy.pue)


def _target(simulation: Simulation, scenario: ScenarioModel) -> tuple[float | None, float | None, float | None]:
    """Return the target objective, the time (h) at which it was reached, and the best objective."""
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
    """Return the best and the used interval between checkpoints of the largest training."""
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
