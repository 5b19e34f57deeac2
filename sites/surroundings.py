"""What the environment of this process says about the batch job it runs in."""

from __future__ import annotations

import os

from gfm_pipeline.sites.enums import Scheduler
from gfm_pipeline.sites.schema import SiteModel

_JOB_ID = {Scheduler.SLURM: "SLURM_JOB_ID", Scheduler.PBS: "PBS_JOBID"}


def current_job(site: SiteModel) -> str:
    """Return the number of the batch job this process runs in, or '' when it runs in none."""
    name = _JOB_ID.get(site.scheduler.kind)
    return os.environ.get(name, "") if name else ""
