"""The workflow file as pydantic models, which check type and range of every key."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from gfm_pipeline.core.contracts.data import SHARD_MB, AcrossSources, EdgeStorage
from gfm_pipeline.core.contracts.ingest.reading import READING_GB, RECORD_SECONDS, ReadLimits
from gfm_pipeline.core.contracts.policies import ENSEMBLE, PROPOSALS, PolicyChoice, default_choice
from gfm_pipeline.core.contracts.targets import DEFAULT as DEFAULT_TARGETS
from gfm_pipeline.core.strict import LONGEST_NAME, NAME, WITHOUT_NULL, Strict, within
from gfm_pipeline.workflow.attributes import Attributes, check_attribute_names, check_values
from gfm_pipeline.workflow.fine_tune_section import FineTuneModel, with_search
from gfm_pipeline.workflow.policies import (
    CriterionChoice,
    Objectives,
    ProposalChoice,
    SelectionChoice,
    StoppingChoice,
    UncertaintyChoice,
)
from gfm_pipeline.workflow.resource_sections import AllocationModel, BudgetModel, Hours, ResourcesModel
from gfm_pipeline.workflow.source_schema import SourceModel
from gfm_pipeline.workflow.space import SpaceModel
from gfm_pipeline.workflow.target_space import check_names
from gfm_pipeline.workflow.targets import Targets, check_labels, with_force_weight

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Graphs = Annotated[int, Field(ge=1, le=10**12)]
Candidates = Annotated[int, Field(ge=1, le=10**6)]
Seconds = Annotated[float, Field(gt=0, le=10**7)]
Gigabytes = Annotated[float, Field(gt=0, le=10**6)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
PROPOSALS_OF_NEW = default_choice(PROPOSALS, "batch-local-gp")
PROPOSALS_OF_EARLIER = tuple(default_choice(PROPOSALS, name) for name in ("batch-gp", "batch-ucb"))  # former defaults


class DataModel(Strict):
    """Sources and how they are split."""

    sources: dict[Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)], SourceModel] = Field(min_length=1)
    validation: Fraction = Field(default=0.1, description="Share of records for validation, in whole groups.")
    test: Fraction = Field(default=0.1, description="Share of records for test, in whole groups.")
    split_across_sources: AcrossSources = Field(
        default=AcrossSources.APART,
        description="apart: each source is split independently; together: a group name or a structure that "
        "several sources have goes to the same split in all of them.",
    )
    max_quarantined: float = Field(default=0.05, ge=0, le=1, description="Largest tolerated share of bad records.")
    shard_mb: Annotated[float, Field(ge=1, le=16384)] = Field(
        default=SHARD_MB, description="Largest size of a BP file (MB); larger datasets have several files."
    )
    edges: EdgeStorage = Field(
        default=EdgeStorage.ON_THE_FLY,
        description="on_the_fly: list edges when structures are read; stored: store them once, within the "
        "largest cutoff of the search space (8 bytes per edge; another largest cutoff makes the datasets anew).",
    )

    @model_validator(mode="after")
    def _room_for_training(self) -> DataModel:
        if self.validation + self.test >= 0.9:
            raise ValueError("validation and test together leave less than 10 % for training")
        return self


class SearchModel(Strict):
    """Waves of candidates, each stopped at a rung unless it is among the best."""

    candidates: Candidates = Field(default=32, description="Candidates in all.")
    wave: Candidates | Literal["auto"] = Field(
        default="auto", description="Candidates per wave, or at a time; auto: the site's slots."
    )
    asynchronous: bool = Field(
        default=True,
        description="true: propose candidates as slots become free, from all results so far; false: propose in "
        "waves, each from the results of a fixed set of earlier candidates, so that every run proposes the "
        "same. Campaigns that started without this key keep waves.",
    )
    rungs: list[Graphs] = Field(
        default=[6_000, 12_000, 48_000, 96_000],
        min_length=1,
        max_length=64,
        description="Training graphs of a candidate up to each rung, in total.",
    )
    reduction: float = Field(
        default=2.5,
        gt=1.0,
        le=1000.0,
        description="One in this many candidates is promoted from each rung to the next; left out: 2.5, or less, so "
        "that as many as converge.members reach the last rung.",
    )
    max_memory_gb: Annotated[float, Field(gt=0, le=10**5)] | None = Field(
        default=None,
        description="Candidates are not proposed that would take more memory per rank, predicted from what trainings "
        "of this search took; null: no limit.",
    )
    validation_limit: Graphs | None = Field(default=None, description="Validation graphs per dataset; null: all.")
    stopping: StoppingChoice = Field(
        default=PolicyChoice("asha", {}),
        description="Policy that stops candidates at rungs: asha, median, fixed, extrapolation, gain, or none.",
    )
    proposals: ProposalChoice = Field(
        default=PROPOSALS_OF_NEW,
        description="Method that proposes candidates: batch-local-gp, batch-gp, batch-ucb, deephyper, or random. "
        "Campaigns that started without this key keep their method.",
    )
    objective: Objectives = Field(
        default=["error"],
        description="What the search makes small: error, and with it kwh, seconds (per graph) or memory; with several, "
        "candidates of the best Pareto fronts are promoted.",
    )
    warm_start: Annotated[str, Field(min_length=1, max_length=4096, pattern=WITHOUT_NULL)] | None = Field(
        default=None,
        description="Results of an earlier search, beside this file: results.csv of DeepHyper, HydraGNN or a report, "
        "or a journal file of Optuna; proposals learn from its results, failures too.",
    )
    space: SpaceModel

    @model_validator(mode="after")
    def _rising(self) -> SearchModel:
        if any(b <= a for a, b in zip(self.rungs, self.rungs[1:], strict=False)):
            raise ValueError(f"rungs must rise, not {self.rungs}")
        return self


class ConvergeModel(Strict):
    """Training of the best candidates until each meets the convergence criterion."""

    members: Annotated[int, Field(ge=1, le=1000)] = Field(default=4, description="Members of the ensemble.")
    max_per_algorithm: Candidates | None = Field(
        default=None,
        description="Largest number of members of one algorithm; null: no limit. Campaigns that started when "
        "null meant half of the members keep that.",
    )
    selection: SelectionChoice = Field(
        default=PolicyChoice("best", {}), description="Rule that chooses the members: best, greedy, or diverse."
    )
    criterion: CriterionChoice = Field(
        default=PolicyChoice("plateau", {}), description="Convergence criterion of a member: plateau, or limit."
    )
    check_every: Graphs = Field(default=10_000, description="Graphs between validations.")
    patience: Candidates = Field(default=3, description="Validations within which the objective must improve.")
    min_delta: Fraction = Field(default=0.02, description="Smallest relative improvement that counts.")
    max_graphs: Graphs = Field(
        default=10_000_000, description="Largest number of training graphs of a member, in total."
    )
    anneal_fraction: Fraction = Field(
        default=0.25, description="Length of the final annealing, as a share of the training graphs so far."
    )


class CalibrateModel(Strict):
    """Intervals, calibrated on the validation split and evaluated on the test split."""

    level: Fraction = Field(default=0.9, description="Nominal coverage of the intervals.")
    uncertainty: UncertaintyChoice = Field(
        default=ENSEMBLE, description="Raw uncertainty: ensemble (spread of the members) or llpr (of one member too)."
    )


class LimitsModel(Strict):
    """Limits that keep a campaign from hanging."""

    task_hours: Hours = Field(
        default=12.0,
        description="Longest time of one attempt at a task; the next attempt continues from the checkpoint.",
    )
    heartbeat_timeout_seconds: Seconds = Field(
        default=900.0, description="A program without a heartbeat for this time is killed and started again."
    )
    wrapper_timeout_seconds: Seconds = Field(
        default=120.0,
        description="A task whose wrapper shows no sign of life for this time counts as lost, whatever Parsl reports.",
    )
    record_seconds: Seconds = Field(
        default=RECORD_SECONDS,
        description="If a file gives no further record for this time, the rest of the file is skipped and named.",
    )
    reading_gb: Gigabytes = Field(
        default=READING_GB,
        description="Memory that reading a record may take; what needs more is set aside, and named.",
    )
    visible_seconds: Seconds | None = Field(
        default=None,
        description="A file that another host wrote is waited for so long; null: 60 with a batch system, else 5.",
    )
    stop_seconds: Seconds = Field(
        default=60.0, description="Time for running tasks to save a checkpoint when the campaign is stopped."
    )

    def reading(self, most_seconds: float = math.inf) -> ReadLimits:
        """Return the limits for reading files; the time limit is at most ``most_seconds``."""
        return ReadLimits(self.reading_gb, min(self.record_seconds, most_seconds))


def _search_or_fine_tune(schema: dict[str, Any]) -> None:
    """Let editors accept a workflow with `fine_tune` in place of `search`."""
    schema["required"] = [name for name in schema["required"] if name != "search"]
    schema["anyOf"] = [{"required": ["search"]}, {"required": ["fine_tune"]}]


class WorkflowModel(Strict):
    """A campaign: from raw structures to a calibrated ensemble."""

    model_config = ConfigDict(json_schema_extra=_search_or_fine_tune)

    name: str = Field(pattern=NAME, max_length=LONGEST_NAME, description="Name of the campaign and of its folder.")
    seed: Seed = Field(default=0, description="Seed of everything random.")
    data: DataModel
    targets: Targets = Field(
        default=DEFAULT_TARGETS,
        description="Predicted properties, by name; default: energy and forces (docs/add-a-target.md).",
    )
    attributes: Attributes = Field(
        default=(),
        description="Graph attributes besides total charge and spin, by name (docs/data.md#graph-attributes).",
    )
    search: SearchModel
    fine_tune: FineTuneModel | None = Field(
        default=None, description="In place of `search`: the members of an earlier ensemble go on with new data."
    )
    converge: ConvergeModel = ConvergeModel()
    calibrate: CalibrateModel = CalibrateModel()
    limits: LimitsModel = LimitsModel()
    resources: ResourcesModel = ResourcesModel()
    allocation: AllocationModel = AllocationModel()
    budget: BudgetModel = BudgetModel()

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, plain: Any) -> Any:
        return with_search(with_force_weight(plain))

    @model_validator(mode="after")
    def _labels_of_targets(self) -> WorkflowModel:
        with within("search", "space"):
            check_names(self.search.space, {t.name for t in self.targets}, self.data.sources.keys())
        check_attribute_names(self.attributes, {t.name for t in self.targets})
        columns = (*self.targets, *(one.column for one in self.attributes))
        for name, source in self.data.sources.items():
            with within("data", "sources", name):
                check_labels(columns, source.labels, source.label_units)
                check_values(self.attributes, source.attributes)
        return self

    @model_validator(mode="after")
    def _heads_of_targets(self) -> WorkflowModel:
        with within("search", "space"):
            self.search.space.check_targets(self.targets)
            self.search.space.check_conditioning(self.attributes)
        return self

    @model_validator(mode="after")
    def _one_size_a_rung(self) -> WorkflowModel:
        sizes = self.resources.search.nodes
        if isinstance(sizes, list) and len(sizes) != len(self.search.rungs):
            raise ValueError(
                f"resources.search.nodes lists {len(sizes)} sizes for the {len(self.search.rungs)} search.rungs"
            )
        return self

    @model_validator(mode="after")
    def _enough_trials(self) -> WorkflowModel:
        trials = self.budget.trials
        if trials is not None and trials < self.converge.members:
            raise ValueError(
                f"budget.trials ({trials}) is less than converge.members ({self.converge.members}): "
                f"set it to {self.converge.members} or more"
            )
        return self

    @model_validator(mode="after")
    def _enough_candidates(self) -> WorkflowModel:
        if self.converge.members > self.search.candidates:
            raise ValueError(
                f"converge.members ({self.converge.members}) exceeds search.candidates ({self.search.candidates})"
            )
        return self
