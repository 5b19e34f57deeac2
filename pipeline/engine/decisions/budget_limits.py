"""The limits of a workflow's budget: all limits, the limits of a stage, and raised limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gfm_pipeline.campaign.budget_standing import QUANTITIES
from gfm_pipeline.campaign.events import StageCurtailed

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel


def limits(workflow: WorkflowModel) -> Iterator[tuple[str, str, str, float]]:
    """Yield key, stage, quantity and amount of every limit of time and energy."""
    for quantity in QUANTITIES:
        if (amount := getattr(workflow.budget, quantity)) is not None:
            yield f"budget.{quantity}", "", quantity, amount
    for name, model in workflow.budget.stages.items():
        for quantity in QUANTITIES:
            if (amount := getattr(model, quantity)) is not None:
                yield f"budget.stages.{name}.{quantity}", name, quantity, amount


def in_force(workflow: WorkflowModel, stage: str) -> dict[str, float]:
    """Return the limits of a stage, by their keys."""
    found = {key: amount for key, name, _, amount in limits(workflow) if name in ("", stage)}
    if workflow.budget.trials is not None:
        found["budget.trials"] = float(workflow.budget.trials)
    return found


def raised(workflow: WorkflowModel, curtailed: StageCurtailed, stage: str) -> bool:
    """Return whether one of the limits that ended a stage early is now higher, or gone."""
    now = in_force(workflow, stage)
    return any(key not in now or now[key] > amount for key, amount in curtailed.limits.items())
