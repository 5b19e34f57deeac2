"""Submits a campaign whose driver runs in its batch job."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gfm_pipeline.api.allocate import (
    BatchEnvironment,
    job_folder,
    job_prefix,
    job_shape,
    resident_scripts,
    write_resolved,
)
from gfm_pipeline.api.budget_check import refuse_budget
from gfm_pipeline.api.jobs import record, still_open
from gfm_pipeline.api.run_request import ResolvedRun, RunRequest
from gfm_pipeline.batch_systems.base import BatchSystem
from gfm_pipeline.batch_systems.commands import SubmissionRefused
from gfm_pipeline.campaign.events import JobEnded, JobIntended, JobRole, JobSubmitted
from gfm_pipeline.campaign.folder import check_name, driving
from gfm_pipeline.campaign.identity import remember_digests
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.errors import SchedulerUnavailable
from gfm_pipeline.core.publish import storage_errors, write_atomic
from gfm_pipeline.engine.resources.job_chain import job_name
from gfm_pipeline.execution.retry import retrying

Notify = Callable[[str], None]


def submit_campaign(request: ResolvedRun, run_request: RunRequest, around: BatchEnvironment, notify: Notify) -> None:
    """Submit the first job of a campaign's chain, unless there is one already.

    Raises
    ------
    CampaignLocked
        When a driver is running.
    ConfigError
        When the batch system refuses the job.
    SchedulerUnavailable
        When the batch system does not answer.
    """
    paths, name = request.context.paths, request.loaded.model.name
    refuse_budget(request, check_name(paths, name) or CampaignState())
    if around.scheduler is None:
        raise SchedulerUnavailable(f"Site {request.site.name} has no batch system to submit to.")
    new = not paths.root.exists()
    try:
        _submit(request, run_request, around, notify)
    except SubmissionRefused:
        if new:  # no waiting job, no past run: restore the former state
            shutil.rmtree(paths.root, ignore_errors=True)
            with suppress(OSError):
                paths.root.parent.rmdir()  # if it is empty
        raise


def _submit(request: ResolvedRun, run_request: RunRequest, around: BatchEnvironment, notify: Notify) -> None:
    paths, name = request.context.paths, request.loaded.model.name
    with driving(paths.root, name, around.job, around.job_ended) as campaign:
        remember_digests(request.digests, paths.digests)
        write_resolved(request, paths)
        living = still_open(campaign, around.job, notify)
        if living:
            waiting = ", ".join(job.described() for job in living)
            notify(f"{waiting} of this campaign is in the queue already; nothing was submitted.")
            return
        shape, mine = job_shape(request), job_name(job_prefix(campaign), campaign.state)
        script = resident_scripts(request, replace(run_request, kept=_keep(run_request, paths, mine)))(mine, None)
        place = retrying(around.place, notify)
        record(campaign, JobIntended(mine, JobRole.DRIVER, shape.nodes, shape.hours, shape.queue, "", *place))
        try:
            job = retrying(lambda: _scheduler(around).submit(script, mine), notify)
        except SubmissionRefused as error:
            record(campaign, JobEnded(mine, str(error)))
            raise
        record(campaign, JobSubmitted(mine, job))
    notify(f"Submitted job {job} ({mine}): {shape.nodes} nodes, {shape.hours:g} h, queue {shape.queue}.")
    where = shlex.quote(str(paths.root))
    notify(f"Watch it: gfm-pipeline status {where}    stop it: gfm-pipeline cancel {where}")


def _keep(run_request: RunRequest, paths: CampaignPaths, job: str) -> Path:
    """Copy the workflow for the job, because users may edit the file while the job waits."""
    kept = job_folder(paths) / f"{job}.workflow.yaml"
    with storage_errors(kept):
        kept.parent.mkdir(exist_ok=True)
    write_atomic(kept, run_request.workflow.read_bytes())
    return kept


def _scheduler(around: BatchEnvironment) -> BatchSystem:
    if around.scheduler is None:
        raise SchedulerUnavailable("There is no batch system.")
    return around.scheduler
