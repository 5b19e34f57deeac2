"""The batch system of a site."""

from __future__ import annotations

from collections.abc import Mapping

from gfm_pipeline.execution.pbs import Pbs
from gfm_pipeline.execution.scheduler import Scheduler
from gfm_pipeline.execution.slurm import Slurm
from gfm_pipeline.sites.enums import Scheduler as Kind
from gfm_pipeline.sites.schema import SchedulerModel


def scheduler_of(model: SchedulerModel, environment: Mapping[str, str]) -> Scheduler | None:
    """Return the batch system that a site names; None for machines without one.

    Parameters
    ----------
    model
        The section ``scheduler`` of the site.
    environment
        The environment of this process: it says which Slurm it is, and which job this process runs in.
    """
    match model.kind:
        case Kind.SLURM:
            return Slurm(environment, model.command_timeout_seconds)
        case Kind.PBS:
            return Pbs(environment, model.command_timeout_seconds)
        case Kind.LOCAL:
            return None
