"""The trainings of a search: names, results, seeds, and observations for the proposal method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.stage_state import StageState, TaskStatus
from gfm_pipeline.core.contracts.targets import DEFAULT
from gfm_pipeline.core.contracts.training import TrainSpec
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.decisions.requests import (
    Context,
    Program,
)

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel


TRAIN = Program("train", TrainSpec, TrainResult)


def learned(workflow: WorkflowModel) -> dict[str, Any]:
    """Return what models learn and are told of, for the key of a stage; defaults are left out, as earlier."""
    targets = [target.learned() for target in workflow.targets]
    found: dict[str, Any] = {} if targets == [target.learned() for target in DEFAULT] else {"targets": targets}
    return found | ({"attributes": to_plain(workflow.attributes)} if workflow.attributes else {})


def task_name(candidate: str, rung: int) -> str:
    """Return the name of the task that trains a candidate to a rung."""
    return f"{candidate}-r{rung}"


def objective_of(stage: StageState, candidate: str, rung: int) -> float | None:
    """Return a candidate's objective at a rung; None if the candidate diverged, failed, or has not finished it."""
    task = stage.tasks.get(task_name(candidate, rung))
    if task is None or task.diverged:
        return None
    result = task.decoded(TrainResult)
    return None if result is None else result.objective


def finished(stage: StageState, candidate: str, rung: int) -> bool:
    """Return whether a candidate's training to ``rung`` has ended, with or without success."""
    task = stage.tasks.get(task_name(candidate, rung))
    return task is not None and task.status in (TaskStatus.DONE, TaskStatus.FAILED)


def candidate_seed(context: Context, name: str) -> int:
    """Return the seed of a candidate's weights and sampling: a function of the campaign's seed and its number."""
    return context.workflow.seed * 100_003 + int(name[1:])


def stopped_early(stage: StageState) -> dict[str, str]:
    """Return the presently stopped candidates, with the evidence; a later wave may have revived others."""
    stopped: dict[str, str] = {}
    for (_, rung), decision in sorted(stage.decisions.items()):
        for name, evidence in decision.stopped.items():
            stopped[name] = f"stopped at rung {rung}: {evidence}"
        for name in decision.promoted:
            stopped.pop(name, None)
    return stopped


def describe_training(result: TrainResult) -> str:
    """Return how a training ended, in words."""
    error = "" if result.objective_error is None else f" ± {result.objective_error:.4f}"
    return (
        f"objective {result.objective:.4f}{error} after {result.graphs:,} graphs "
        f"({result.graphs_per_second:.0f} graphs/s, {result.stop_reason})"
    )


def node_list(nodes: int | Sequence[int] | str) -> tuple[int, ...] | None:
    """Return the workflow's nodes of trainings, one entry per rung or one for all; None for `auto`."""
    if isinstance(nodes, str):
        return None
    return (nodes,) if isinstance(nodes, int) else tuple(nodes)


def ended_tasks(stage: StageState) -> tuple[str, ...]:
    """Return the tasks of a stage that are not running."""
    return tuple(name for name, task in stage.tasks.items() if task.status is not TaskStatus.RUNNING)
