"""Evidence for each stop of a candidate, and the saved work."""

from __future__ import annotations

from collections.abc import Iterable

from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.usage import HOUR, KWH, TaskUsage, of_tasks
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.engine.stages.trials import objective_of, task_name
from gfm_pipeline.report.view import StopView


def stops(stage: StageState) -> dict[str, StopView]:
    """Return the evidence of each stopped candidate, by name, from the journal alone.

    The function follows the order of recorded decisions: a candidate's rank is among those that had finished
    its rung by then.
    """
    found: dict[str, StopView] = {}
    known: dict[int, list[float]] = {}
    finished: dict[int, int] = {}
    passed: dict[int, float] = {}  # the worst objective that was promoted, by rung
    for (_, rung), decision in stage.decisions.items():
        names = [*decision.stopped, *(n for n in decision.promoted if n not in found)]
        values = {name: objective_of(stage, name, rung) for name in names}
        finished[rung] = finished.get(rung, 0) + len(names)
        known.setdefault(rung, []).extend(value for value in values.values() if value is not None)
        for name in decision.promoted:
            found.pop(name, None)
            value = objective_of(stage, name, rung)
            if value is not None:
                passed[rung] = max(passed.get(rung, value), value)
        for name in decision.stopped:
            value = values[name]
            rank = None if value is None else 1 + sum(other < value for other in known[rung])
            saved = _saved(stage, name, rung)
            error = _error(stage, name, rung)
            found[name] = StopView(rung, value, error, passed.get(rung), rank, finished[rung], *saved)
    return found


def _error(stage: StageState, name: str, rung: int) -> float | None:
    task = stage.tasks.get(task_name(name, rung))
    result = None if task is None else task.decoded(TrainResult)
    return None if result is None else result.objective_error


def _saved(stage: StageState, name: str, rung: int) -> tuple[int, float | None, float | None]:
    """Return graphs, node-hours and kWh of further training to the last rung, at the candidate's rates so far."""
    rungs = stage.settings["rungs"]
    left = rungs[-1] - rungs[rung]
    tasks = [stage.tasks[task] for r in range(rung + 1) if (task := task_name(name, r)) in stage.tasks]
    used: TaskUsage = of_tasks(tasks)
    if not used.node_seconds:
        return left, None, None
    more = left / rungs[rung]
    kwh = None if used.energy is None else used.energy.joules / KWH * more
    return left, used.node_seconds / HOUR * more, kwh


def saved_cost(found: Iterable[StopView]) -> str:
    """Return the node-hours and kWh that stops saved, as the end of a sentence; '' if they are unknown."""
    every = list(found)
    hours = [stop.saved_node_hours for stop in every if stop.saved_node_hours is not None]
    kwh = [stop.saved_kwh for stop in every if stop.saved_kwh is not None]
    words = [f"{sum(hours):.3g} node-hours"] if hours else []
    words += [f"{sum(kwh):.3g} kWh"] if kwh else []
    return f", about {' and '.join(words)}" if words else ""
