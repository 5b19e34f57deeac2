"""The waiting trainings of a search as requests, and the expected times of its unfinished trainings."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.events import Candidate
from gfm_pipeline.campaign.stage_state import StageState, TaskState, TaskStatus
from gfm_pipeline.engine.decisions.requests import AnyRequest, TaskQueue
from gfm_pipeline.engine.stages.agenda import Agenda, Training, Turn
from gfm_pipeline.engine.stages.base import Stage
from gfm_pipeline.engine.stages.trials import task_name

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel


class WaitingTrainings(TaskQueue):
    """Requests of waiting trainings, built on access; valid until the next decision.

    Parameters
    ----------
    agenda
        The waiting trainings.
    request
        Makes the request of a candidate's training to a rung.
    """

    def __init__(self, agenda: Agenda, request: Callable[[Candidate, int], AnyRequest]) -> None:
        self._request = request
        self._agenda, self._turns = agenda, agenda.turns

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return tuple(self._made(turn) for turn in self._turns[place])
        return self._made(self._turns[place])

    def __iter__(self) -> Iterator[AnyRequest]:
        # Trainings that start meanwhile stay: only the next decision updates the list.
        return map(self._made, self._turns)

    def of_each_rung(self) -> list[AnyRequest]:
        """Return the first request of each rung."""
        turns = self._turns
        return [self._made(turns[bisect_left(turns, (-rung, -1, ""))]) for rung in self._agenda.rungs()]

    def _made(self, turn: Turn) -> AnyRequest:
        training = self._agenda.training(turn)
        return self._request(training.candidate, training.rung)


def expected_seconds(
    search: Stage, workflow: WorkflowModel, stage: StageState, training: Training, now: float
) -> float:
    """Return the expected time (s) that an unfinished training still takes.

    A training is expected to have the rate that its candidate had at the rung before. At the first rung, it is expected
    to take the median time of the finished ones.
    """
    name, rung = training.candidate.name, training.rung
    task, before = stage.tasks.get(task_name(name, rung)), stage.tasks.get(task_name(name, rung - 1))
    rate = _rate(before)
    if rate > 0.0:
        whole = search.graphs_of(workflow, task_name(name, rung)) / rate
    else:
        times = [t.seconds for k, t in stage.tasks.items() if t.status is TaskStatus.DONE and search.rung_of(k) == rung]
        whole = median(times) if times else 0.0
    ran = now - task.started if task is not None and task.status is TaskStatus.RUNNING else 0.0
    return max(0.0, whole - ran)


def _rate(task: TaskState | None) -> float:
    """Return the graphs per second of a finished training; 0 if not known."""
    return 0.0 if task is None else float((task.result or {}).get("graphs_per_second") or 0.0)
