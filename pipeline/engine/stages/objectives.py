"""The objectives of a search, as results of trainings give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gfm_pipeline.campaign.stage_state import StageState, TaskState
from gfm_pipeline.core.contracts.energy import total
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.engine.stages.trials import objective_of, task_name

KWH = 3.6e6  # joules


def _kwh(task: TaskState, result: TrainResult) -> float | None:  # noqa: ARG001 - measured by the wrapper
    used = total(attempt.energy for attempt in task.history if attempt.energy is not None)
    return None if used is None else used.joules / KWH


def _seconds(task: TaskState, result: TrainResult) -> float | None:  # noqa: ARG001 - of the result alone
    return 1.0 / result.graphs_per_second if result.graphs_per_second > 0.0 else None


def _memory(task: TaskState, result: TrainResult) -> float | None:  # noqa: ARG001 - of the result alone
    return result.peak_memory_gb


COSTS: Mapping[str, Callable[[TaskState, TrainResult], float | None]] = {
    "kwh": _kwh,
    "seconds": _seconds,
    "memory": _memory,
}


def costs_of(stage: StageState, candidate: str, rung: int, names: Sequence[str]) -> tuple[float | None, ...]:
    """Return the objectives ``names``, other than the error, of a candidate's training to a rung; None: unknown."""
    task = stage.tasks.get(task_name(candidate, rung))
    result = None if task is None else task.decoded(TrainResult)
    if task is None or result is None:
        return (None,) * len(names)
    return tuple(COSTS[name](task, result) for name in names)


def objectives_of(
    stage: StageState, candidate: str, rung: int, names: Sequence[str]
) -> tuple[float | None, ...] | None:
    """Return the objectives ``names``, the error first; None: the candidate diverged, failed or has not finished."""
    error = objective_of(stage, candidate, rung)
    return None if error is None else (error, *costs_of(stage, candidate, rung, names[1:]))


def searched(stage: StageState) -> tuple[str, ...]:
    """Return the names of the objectives of a search, the error first."""
    return tuple(stage.settings.get("objective", ("error",)))


def compared(stage: StageState) -> dict[str, tuple[float | None, ...]]:
    """Return the objectives of the candidates that finished the highest rung that any finished.

    Energies of different rungs cannot be compared, so the Pareto front is that of one rung.
    """
    names, rungs = searched(stage), len(stage.settings.get("rungs", ()))
    for rung in reversed(range(rungs)):
        vectors = {name: objectives_of(stage, name, rung, names) for name in stage.candidates()}
        if found := {name: vector for name, vector in vectors.items() if vector is not None}:
            return found
    return {}
