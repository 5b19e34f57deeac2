"""The command that submits a campaign whose driver lives in its batch job."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click

from gfm_pipeline.batch_systems.base import BatchSystem
from gfm_pipeline.batch_systems.commands import SubmissionRefused
from gfm_pipeline.campaign.events import JobEnded, JobIntended, JobRole, JobSubmitted
from gfm_pipeline.campaign.folder import check_name, driving
from gfm_pipeline.campaign.holder import NO_JOB
from gfm_pipeline.campaign.identity import remember_digests
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.cli.allocate import (
    Surroundings,
    job_folder,
    job_prefix,
    job_shape,
    resident_scripts,
    surroundings,
    write_resolved,
)
from gfm_pipeline.cli.jobs import record, still_open
from gfm_pipeline.cli.options import Request, SiteChoice, workflow_options
from gfm_pipeline.cli.run_request import Asked
from gfm_pipeline.core.errors import ConfigError, SchedulerUnavailable
from gfm_pipeline.core.publish import storage_errors, write_atomic
from gfm_pipeline.engine.resources.job_chain import job_name
from gfm_pipeline.execution.retry import patiently
from gfm_pipeline.sites.enums import DriverMode

Say = Callable[[str], None]


@click.command()
@workflow_options
def submit(
    workflow: Path,
    site: str,
    overlays: tuple[Path, ...],
    folder: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Submit the campaign of WORKFLOW as a batch job that drives itself on its own nodes.

    The jobs run the workflow as it is now, whatever is edited later. Each job submits its successor, which goes on
    when it has ended, until the campaign is done. `plan --show-scripts` shows the batch script before anything is
    submitted; `status CAMPAIGN` shows where it stands, and `cancel CAMPAIGN` stops the jobs.
    """
    asked = Asked(workflow, SiteChoice(site, overlays), folder, overrides)
    request = asked.resolve()
    if request.site.driver.mode is not DriverMode.RESIDENT:
        instead = shlex.join(["gfm-pipeline", "run", str(workflow), "--site", site])
        raise ConfigError(
            f"On site {request.site.name} the driver does not live in a batch job.",
            f"Use `{instead}`, or --set site.driver.mode=resident.",
        )
    submit_campaign(request, asked, surroundings(request.site, click.echo), click.echo)


def submit_campaign(request: Request, asked: Asked, around: Surroundings, say: Say) -> None:
    """Submit the first job of a campaign's chain, unless there is one already.

    Raises
    ------
    CampaignLocked
        When a driver is at work.
    ConfigError
        When the batch system refuses the job.
    SchedulerUnavailable
        When the batch system does not answer.
    """
    paths, name = request.context.paths, request.loaded.model.name
    check_name(paths, name)
    if around.scheduler is None:
        raise SchedulerUnavailable(f"Site {request.site.name} has no batch system to submit to.")
    new = not paths.root.exists()
    try:
        _submit(request, asked, around, say)
    except SubmissionRefused:
        if new:  # nothing waits, nothing ran: as before
            shutil.rmtree(paths.root, ignore_errors=True)
            with suppress(OSError):
                paths.root.parent.rmdir()  # where it is empty
        raise


def _submit(request: Request, asked: Asked, around: Surroundings, say: Say) -> None:
    paths, name = request.context.paths, request.loaded.model.name
    with driving(paths.root, name, around.job, around.job_ended) as campaign:
        remember_digests(request.digests, paths.digests)
        write_resolved(request, paths)
        living = still_open(campaign, NO_JOB, say)
        if living:
            waiting = ", ".join(job.told() for job in living)
            say(f"{waiting} of this campaign is in the queue already; nothing was submitted.")
            return
        shape, mine = job_shape(request), job_name(job_prefix(campaign), campaign.state)
        script = resident_scripts(request, replace(asked, kept=_keep(asked, paths, mine)))(mine, None)
        place = patiently(around.place, say)
        record(campaign, JobIntended(mine, JobRole.DRIVER, shape.nodes, shape.hours, shape.queue, "", *place))
        try:
            job = patiently(lambda: _scheduler(around).submit(script, mine), say)
        except SubmissionRefused as error:
            record(campaign, JobEnded(mine, str(error)))
            raise
        record(campaign, JobSubmitted(mine, job))
    say(f"Submitted job {job} ({mine}): {shape.nodes} nodes, {shape.hours:g} h, queue {shape.queue}.")
    where = shlex.quote(str(paths.root))
    say(f"Watch it: gfm-pipeline status {where}    stop it: gfm-pipeline cancel {where}")


def _keep(asked: Asked, paths: CampaignPaths, job: str) -> Path:
    """Copy the workflow for a job to run: people edit the file for their next experiment while the job waits."""
    kept = job_folder(paths) / f"{job}.workflow.yaml"
    with storage_errors(kept):
        kept.parent.mkdir(exist_ok=True)
    write_atomic(kept, asked.workflow.read_bytes())
    return kept


def _scheduler(around: Surroundings) -> BatchSystem:
    if around.scheduler is None:
        raise SchedulerUnavailable("There is no batch system.")
    return around.scheduler
