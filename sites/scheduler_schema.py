"""The batch system of a site: queues, their ranges of sizes, and how it is asked."""

from __future__ import annotations

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from gfm_pipeline.batch_systems.base import BatchSystem
from gfm_pipeline.batch_systems.registry import LOCAL, batch_system, names
from gfm_pipeline.core.explain import unknown_name
from gfm_pipeline.core.strict import Strict


class BinModel(Strict):
    """A range of job sizes and the longest wall time it gets."""

    max_nodes: PositiveInt
    min_nodes: PositiveInt = 1
    max_hours: PositiveFloat

    @model_validator(mode="after")
    def _ordered(self) -> BinModel:
        if self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes ({self.min_nodes}) exceeds max_nodes ({self.max_nodes})")
        return self


class QueueModel(Strict):
    """A queue of the batch system: partition, QOS, limits, and where these facts come from."""

    partition: str | None = Field(default=None, description="Slurm partition, or PBS queue.")
    qos: str | None = None
    bins: list[BinModel] = Field(min_length=1, description="Sizes and wall times; the first that fits counts.")
    chaining: bool = Field(default=True, description="Whether jobs may be chained here.")
    max_queued_jobs: PositiveInt | None = Field(default=None, description="Jobs a user may have queued.")
    max_running_jobs: PositiveInt | None = Field(default=None, description="Jobs a user may have running.")
    as_of: str = Field(
        description="When these limits were read, YYYY-MM or YYYY-MM-DD.", pattern=r"^\d{4}-\d{2}(-\d{2})?$"
    )
    source: str = Field(description="Where they were read.")
    verified: bool = Field(default=True, description="False: second-hand; check before you rely on it.")


class SchedulerModel(Strict):
    """The batch system."""

    kind: str = Field(default=LOCAL, description="local: none; slurm, pbs, or one that another package adds.")
    queues: dict[str, QueueModel] = Field(default={})
    default_queue: str | None = None
    account: str | None = Field(default=None, description="Project that is charged; set it in your overlay.")
    account_required: bool = True
    account_suffix: str = Field(default="", description="What accounts end in here, for an early warning.")
    constraint: str | None = Field(default=None, description="Slurm --constraint.")
    select: str | None = Field(default=None, description="PBS: added to select=N, e.g. ncpus=64:ngpus=4.")
    directives: list[str] = Field(
        default=[], description="Further options of every job, e.g. --network=disable_rdzv_get (without #SBATCH)."
    )
    command_timeout_seconds: PositiveFloat = Field(default=120.0, description="For sbatch, squeue and the like.")
    poll_seconds: PositiveFloat = Field(default=30.0, description="Between two looks at the queue.")
    missing_job_seconds: PositiveFloat = Field(
        default=120.0,
        description="How long every answer of the batch system must lack a job before the job counts as ended.",
    )

    @property
    def system(self) -> type[BatchSystem] | None:
        """The batch system; None: there is none."""
        return batch_system(self.kind)

    @field_validator("kind")
    @classmethod
    def _kind_is_known(cls, kind: str) -> str:
        if kind not in (known := names()):
            raise unknown_name("kind", kind, known)
        return kind

    @model_validator(mode="after")
    def _default_is_known(self) -> SchedulerModel:
        if self.default_queue is not None and self.default_queue not in self.queues:
            raise unknown_name("default_queue", self.default_queue, self.queues)
        if self.system is not None and not self.queues:
            raise ValueError(f"kind {self.kind} needs at least one of queues")
        return self
