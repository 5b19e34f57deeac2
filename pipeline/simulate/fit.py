"""Fits the scenario of a simulation to the journal of a real campaign; docs/simulate.md has the formulas."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfm_pipeline.search.space import SearchSpace
from gfm_pipeline.simulate.learning_curve import coordinate, dimensions
from gfm_pipeline.simulate.recorded import Recorded, RecordedObjective, RecordedTraining
from gfm_pipeline.simulate.scenario import CostModel, CurveModel, ScenarioModel
from gfm_pipeline.simulate.training_cost import TrainingCost

SHRINK = 1.0  # of the coefficients of quality, in units of the scatter: few candidates give little information
POLL_SECONDS = 1.0  # interval at which the driver checks for started workers
LEAST = 3  # least number of trainings for an algorithm's own factor
MOST_SCATTER = 1.0
WORTH_FITTING = 0.2  # least share of work in the time for fitting factors of algorithms


def fitted(scenario: ScenarioModel, found: Recorded, space: SearchSpace) -> ScenarioModel:
    """Return the scenario with the recorded times and learning curves."""
    proposals = statistics.fmean(found.proposals) if found.proposals else scenario.driver.proposal_seconds
    driver = scenario.driver.model_copy(
        update={"proposal_seconds": max(0.0, proposals), "candidate_seconds": 0.0, "result_seconds": 0.0}
    )
    cost = fit_cost(scenario.cost, found)
    return scenario.model_copy(
        update={"driver": driver, "cost": cost, "curve": fit_curve(scenario.curve, found.objectives, space)}
    )


def _waited(values: Sequence[float], default: float) -> float:
    """Return the duration of something that is checked every second."""
    return max(0.0, statistics.fmean(values) - POLL_SECONDS / 2) if values else default


# ---------------------------------------------------------------- times


def fit_cost(model: CostModel, found: Recorded) -> CostModel:
    """Return the durations of programs.

    Wall times of trainings are ``startup + graphs (graph + step / B + ceil(B / P) work / rank_flops / B)``, by
    non-negative least squares in the four unknowns; the all-reduce is part of the step.
    """
    from scipy.optimize import nnls  # here: only this function needs it

    other = {name: statistics.fmean(seconds) for name, seconds in found.other.items()}
    times = {
        # the mean, not the median: a few long waits are part of the makespan
        "hand_over_seconds": statistics.fmean(found.handed_over) if found.handed_over else model.hand_over_seconds,
        "workers_seconds": _waited(found.workers, model.workers_seconds),
        "pool_seconds": _waited(found.pools, model.pool_seconds),
        "other_seconds": {**model.other_seconds, **other},
        "checkpoint_seconds": 0.0,  # part of the recorded times
        "latency": 0.0,
        "bandwidth": 1e30,
        "scale": 1.0,
    }
    rows = np.array([_row(model, training) for training in found.trainings])
    seconds = np.array([training.seconds for training in found.trainings])
    weight = 1.0 / np.maximum(seconds, 1e-3)  # relative errors count: trainings differ by orders of magnitude
    norms = np.maximum(np.linalg.norm(rows * weight[:, None], axis=0), 1e-300)
    scaled, _ = nnls(rows * weight[:, None] / norms, seconds * weight)
    startup, graph, step, flop = scaled / norms
    predicted = np.maximum(rows @ (scaled / norms), 1e-6)
    factors = _algorithm_factors(model, found.trainings, rows, np.array([startup, graph, step, flop]), seconds)
    scatter = float(np.std(np.log(np.maximum(seconds, 1e-6) / predicted))) if len(seconds) > 1 else model.scatter
    return model.model_copy(
        update={
            **times,
            "startup_seconds": float(startup),
            "graph_seconds": float(graph),
            "step_seconds": max(float(step), 1e-12),
            "rank_flops": 1.0 / max(float(flop), 1e-30),
            "algorithms": {**model.algorithms, **factors},
            "scatter": min(MOST_SCATTER, scatter),
        }
    )


def _row(model: CostModel, training: RecordedTraining) -> tuple[float, float, float, float]:
    batch = training.optimiser.batch_size
    share = math.ceil(batch / training.ranks) / batch
    work = TrainingCost(model, gpu=False).work(training.model)
    return 1.0, float(training.graphs), training.graphs / batch, training.graphs * share * work


def _algorithm_factors(
    model: CostModel, trainings: Sequence[RecordedTraining], rows: Any, found: Any, seconds: Any
) -> dict[str, float]:
    """Return the ratios of recorded to assumed times per algorithm, if work dominates the times."""
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    for training, row, took in zip(trainings, rows, seconds, strict=True):
        work, rest = row[3] * found[3], float(row[:3] @ found[:3])
        if work > WORTH_FITTING * took:
            ratios[training.model.algorithm].append(max(0.05, (took - rest) / work))
    return {
        name: statistics.median(found_ratios) * model.algorithms.get(name, 2.0)
        for name, found_ratios in ratios.items()
        if len(found_ratios) >= LEAST
    }


# ---------------------------------------------------------------- learning curves


def fit_curve(model: CurveModel, found: Sequence[RecordedObjective], space: SearchSpace) -> CurveModel:
    """Return the curve of a search's objectives, and the effects of hyperparameters on it."""
    good = [o for o in found if o.objective is not None and o.objective > 0.0]
    if not good:
        return model
    diverged = sum(o.objective is None for o in found) / len({o.candidate for o in found})
    logs = np.log([float(o.objective or 1.0) for o in good])
    graphs = np.array([float(o.graphs) for o in good])
    floor, amplitude, exponent = _power_law(graphs, logs)
    smallest = float(graphs.min())
    curve = floor + amplitude * (graphs / smallest) ** -exponent
    rest = logs - np.log(curve)
    offsets, slopes, unexplained = _quality(good, rest, space)
    noise, scatter = _spread(good, unexplained)
    return model.model_copy(
        update={
            "floor": floor,
            "amplitude": amplitude,
            "graphs": smallest,
            "exponent": exponent,
            "diverged": min(1.0, diverged),
            "offsets": offsets,
            "slopes": slopes,
            "spread": 0.0,
            "noise": noise,
            "scatter": scatter,
        }
    )


def _power_law(graphs: Any, logs: Any) -> tuple[float, float, float]:
    """Return floor, amplitude and exponent of the medians at each number of graphs."""
    from scipy.optimize import least_squares

    counts = np.unique(graphs)
    medians = np.array([float(np.median(logs[graphs == n])) for n in counts])
    ratio = counts / counts[0]
    start = math.exp(medians[0])
    if len(counts) < 2:
        return 0.0, start, 0.3
    rungs = len(counts) > 2  # two points do not determine a floor

    def residuals(x: Any) -> Any:
        floor = math.exp(x[2]) if rungs else 0.0
        return np.log(floor + math.exp(x[0]) * ratio ** -math.exp(x[1])) - medians

    first = [math.log(start), math.log(0.3)] + ([math.log(0.1 * start)] if rungs else [])
    best = least_squares(residuals, first).x
    return (math.exp(best[2]) if rungs else 0.0), math.exp(best[0]), math.exp(best[1])


def _quality(
    found: Sequence[RecordedObjective], rest: Any, space: SearchSpace
) -> tuple[dict[str, float], dict[str, tuple[float, float]], Any]:
    """Return offsets of names, slopes of numbers, and the residuals; by ridge regression."""
    names, rows = _features(found, space)
    if not names:
        return {}, {}, rest
    matrix = np.array(rows)
    mean = matrix.mean(axis=0)
    centred, target = matrix - mean, rest - rest.mean()
    solved = np.linalg.solve(centred.T @ centred + SHRINK * np.eye(len(names)), centred.T @ target)
    offsets = {name: float(value) for (name, power), value in zip(names, solved, strict=True) if power == 0}
    slopes: dict[str, tuple[float, float]] = {}
    for (name, power), value in zip(names, solved, strict=True):
        if power:
            line, bend = slopes.get(name, (0.0, 0.0))
            slopes[name] = (line + float(value), bend) if power == 1 else (line, bend + float(value))
    # The mean of the features is the curve's own candidate.
    shift = float(mean @ solved - rest.mean())
    for algorithm in space.algorithms:
        key = f"algorithm={algorithm}"
        offsets[key] = offsets.get(key, 0.0) - shift
    return offsets, slopes, target - centred @ solved


def _features(
    found: Sequence[RecordedObjective], space: SearchSpace
) -> tuple[list[tuple[str, int]], list[list[float]]]:
    """Return columns, as name and power (0: an offset of a name), and the row of every objective."""
    columns: dict[tuple[str, int], None] = {}
    rows: list[Mapping[tuple[str, int], float]] = []
    for one in found:
        row: dict[tuple[str, int], float] = {}
        for name, dimension in dimensions(space, one.settings).items():
            value = one.settings.get(name, dimension.first)
            place = coordinate(dimension, value)
            if place is not None:
                row[name, 1], row[name, 2] = place, place**2
            else:
                row[f"{name}={value}", 0] = 1.0
        columns |= dict.fromkeys(row)
        rows.append(row)
    varying = [c for c in columns if len({row.get(c, 0.0) for row in rows}) > 1]
    return varying, [[row.get(c, 0.0) for c in varying] for row in rows]


def _spread(found: Sequence[RecordedObjective], left: Any) -> tuple[float, float]:
    """Return the noise of one objective, and the spread between candidates of the same settings."""
    by_candidate: defaultdict[str, list[float]] = defaultdict(list)
    for one, value in zip(found, left, strict=True):
        by_candidate[one.candidate].append(float(value))
    within = [statistics.variance(values) for values in by_candidate.values() if len(values) > 1]
    noise2 = statistics.fmean(within) if within else 0.0
    all2 = float(np.var(left))
    return min(1.0, math.sqrt(noise2)), min(1.0, math.sqrt(max(0.0, all2 - noise2)))
