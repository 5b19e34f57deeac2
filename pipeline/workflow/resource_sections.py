"""Sections of a workflow file on the machine: resources of tasks, allocation, and budget."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gfm_pipeline.core.strict import Strict

Tasks = Annotated[int, Field(ge=1, le=10**5)]
Nodes = Annotated[int, Field(ge=0, le=10**5)]
RanksPerNode = Annotated[int, Field(ge=1, le=1024)]
Ranks = Annotated[
    RanksPerNode | None,
    Field(description="Ranks on each of its nodes, or in all where it shares one; null: one per GPU, or one."),
]
Queue = Annotated[str, Field(min_length=1)]
Hours = Annotated[float, Field(gt=0, le=10**5)]
Amount = Annotated[float, Field(gt=0, le=10**12)]


class SharedModel(Strict):
    """Nodes of tasks that share them: one rank each."""

    nodes: Literal[0] = Field(default=0, description="0: the tasks share nodes.")
    cores: Tasks | None = Field(default=None, description="Cores of one task; null: the site's choice.")


class TrainingModel(Strict):
    """Nodes of one training, and its ranks; with `auto`, from the site, the allocation and the number of trainings."""

    nodes: Nodes | Literal["auto"] = Field(
        default="auto", description="Whole nodes of one training; 0: it shares a node."
    )
    ranks_per_node: Ranks = None


class TrialModel(Strict):
    """Nodes of one trial of the search, and its ranks, as for a training to convergence."""

    nodes: Nodes | list[Nodes] | Literal["auto"] = Field(
        default="auto", description="Whole nodes of one trial, or a list of them, one per rung; 0: it shares a node."
    )
    ranks_per_node: Ranks = None


class ResourcesModel(Strict):
    """What one task of each stage gets of the machine. No result depends on it, up to the rounding of sums."""

    ingest: SharedModel = SharedModel()
    search: TrialModel = TrialModel()
    converge: TrainingModel = TrainingModel()
    calibrate: SharedModel = SharedModel()


class StageAllocationModel(Strict):
    """A batch job of its own for a stage; what is left out is as for the campaign."""

    nodes: Annotated[int, Field(ge=1, le=10**5)] | None = Field(default=None, description="Nodes of its job.")
    hours: Hours | None = Field(default=None, description="Wall time of its job.")
    queue: Queue | None = Field(default=None, description="Queue of the site.")


class AllocationModel(Strict):
    """The batch job, or jobs, a campaign runs in."""

    nodes: Annotated[int, Field(ge=1, le=10**5)] | Literal["auto"] = Field(
        default="auto", description="Nodes of one job; auto: as many as a wave of the search keeps busy."
    )
    hours: Hours | Literal["auto"] = Field(
        default="auto", description="Wall time of one job; auto: the longest that so many nodes get."
    )
    queue: Queue | None = Field(default=None, description="Queue of the site; null: its default one.")
    blocks: RanksPerNode = Field(default=1, description="Jobs at a time, for a driver outside of them.")
    stages: dict[str, StageAllocationModel] = Field(
        default={}, description="Jobs of their own, by stage: a small one for ingest, say."
    )
    split_nodes: Annotated[int, Field(ge=2)] | None = Field(
        default=64,
        description="In a job of so many nodes, a stage that keeps at most a quarter of them busy gets a smaller job "
        "of its own, and so do the last trainings of a stage; null: never.",
    )
    split_seconds: Annotated[float, Field(ge=0)] = Field(
        default=600.0, description="The last trainings of a stage get a smaller job only if they take longer."
    )

    def of_stage(self, stage: str) -> AllocationModel:
        """Return the allocation of one stage."""
        own = self.stages.get(stage)
        given = {} if own is None else {k: v for k, v in own if v is not None}
        return self.model_copy(update={**given, "stages": {}})


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
