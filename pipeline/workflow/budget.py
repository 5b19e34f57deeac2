"""Budgets in a workflow file: of the campaign and of stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gfm_pipeline.core.strict import Strict

Amount = Annotated[float, Field(gt=0, le=10**12)]


class StageBudgetModel(Strict):
    """Most that one stage may use. It may be raised at any time, and no result depends on it."""

    node_hours: Amount | None = Field(default=None, description="Node-hours of its tasks; null: no limit.")
    kwh: Amount | None = Field(default=None, description="Energy of its tasks (kWh), measured or modelled.")
    hours: Amount | None = Field(default=None, description="Hours in which a driver works on it.")


class BudgetModel(Strict):
    """Most that the campaign may use. It may be raised at any time, and no result depends on it but what is made."""

    node_hours: Amount | None = Field(default=None, description="Node-hours of all nodes held; null: no limit.")
    kwh: Amount | None = Field(default=None, description="Energy of all nodes held (kWh), measured or modelled.")
    hours: Amount | None = Field(default=None, description="Hours in which a driver is at work.")
    trials: Annotated[int, Field(ge=1, le=10**6)] | None = Field(
        default=None, description="Candidates that the search may begin to train; null: search.candidates."
    )
    stages: dict[str, StageBudgetModel] = Field(
        default={}, description="Limits of stages, by name; that of converge is what the search leaves it."
    )
