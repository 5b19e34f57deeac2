"""How a campaign gets its nodes: this machine, the driver's batch job, or submitted blocks."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gfm_pipeline.api.run_request import ResolvedRun, RunRequest
from gfm_pipeline.api.stopping import Stopper
from gfm_pipeline.batch_systems.base import BatchSystem, JobState
from gfm_pipeline.batch_systems.registry import connected
from gfm_pipeline.campaign.folder import OpenCampaign
from gfm_pipeline.campaign.holder import NO_JOB, Holder, JobIdentity
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.errors import ConfigError, SchedulerUnavailable
from gfm_pipeline.core.publish import write_json
from gfm_pipeline.engine.resources.job_chain import Chain
from gfm_pipeline.engine.resources.nodes import Fleet, HeldFleet, HeldJob
from gfm_pipeline.engine.resources.pilot_jobs import PilotFleet, PilotRequest
from gfm_pipeline.engine.resources.requirements import max_launches
from gfm_pipeline.execution.blocks import JobShape, PilotBlocks, Scripts
from gfm_pipeline.execution.endings import wait_until_ended
from gfm_pipeline.execution.launcher import ParslLauncher
from gfm_pipeline.execution.retry import retrying
from gfm_pipeline.sites.enums import DriverMode
from gfm_pipeline.sites.schema import SiteModel

SUBMIT = ("gfm-pipeline", "submit")
JOB_PREFIX = "gfm-"


@dataclass(frozen=True)
class BatchEnvironment:
    """The batch system here, and the job of this process; None and `NO_JOB` if there is none.

    ``missing_seconds`` is the time during which all answers must lack a job before it counts as ended.
    """

    scheduler: BatchSystem | None
    job: JobIdentity
    missing_seconds: float
    notify: Callable[[str], None]

    def place(self) -> tuple[str, str]:
        """Return batch system and cluster of this machine; ('', '') without a batch system.

        Raises
        ------
        SchedulerTrouble
            When the batch system does not answer.
        """
        if self.scheduler is None:
            return "", ""
        return self.scheduler.system, self.job.cluster or self.scheduler.cluster()

    def job_ended(self, holder: Holder) -> bool:
        """Return whether a driver's job has ended; False if that is unknown here."""
        if self.scheduler is None or holder.job == self.job.number:
            return False
        try:
            info = self.scheduler.jobs([holder.job])[holder.job]
            if holder.format == 1:  # a lock of the first version: only the state of one of our jobs is informative
                return info.state.has_ended and info.name.startswith(JOB_PREFIX)
            if not holder.cluster or (holder.system, holder.cluster) != self.place():
                return False
            if info.state is JobState.UNKNOWN:
                info = wait_until_ended(self.scheduler, [holder.job], self.missing_seconds, self.notify)[holder.job]
        except SchedulerUnavailable:  # includes `SchedulerTrouble`: without an answer, the job may live
            return False
        if info.state is JobState.VANISHED:
            return True
        return info.state.has_ended and info.name == holder.job_name  # the ID may belong to another job now


def batch_environment(site: SiteModel, notify: Callable[[str], None]) -> BatchEnvironment:
    """Return the batch environment of this process; ``notify`` receives messages about waits."""
    # a batch system tells a process its job in the environment only
    scheduler, job = connected(site.scheduler.kind, os.environ, site.scheduler.command_timeout_seconds), NO_JOB
    if scheduler is not None:
        number, name, restarts = scheduler.my_job()
        if number:
            cluster = ""
            with suppress(
                SchedulerUnavailable
            ):  # no answer now; no driver elsewhere takes over a lock without a cluster
                cluster = scheduler.cluster()
            job = JobIdentity(number, name, scheduler.system, cluster, restarts)
    return BatchEnvironment(scheduler, job, site.scheduler.missing_job_seconds, notify)


def job_prefix(campaign: OpenCampaign) -> str:
    """Return the prefix of the names of a campaign's jobs: its name, and a mark of its path and its creation time.

    A new campaign in the same folder is a different one, and a job's name is used only once.
    """
    state = campaign.state
    mark = hashlib.sha256(f"{campaign.paths.root} {state.created_at}".encode()).hexdigest()[:8]
    return f"{JOB_PREFIX}{state.created.name if state.created else ''}-{mark}"


def job_shape(request: ResolvedRun) -> JobShape:
    """Return the planned requests of every job of the campaign."""
    job = request.resources.allocation
    return JobShape(job.nodes, job.hours or 0.0, job.queue or "", job.account)


def job_folder(paths: CampaignPaths) -> Path:
    """Return the folder of batch scripts and of the jobs' output."""
    return paths.root / "jobs"


def write_resolved(request: ResolvedRun, paths: CampaignPaths) -> None:
    """Save the resolved workflow and site, for users and for `cancel`."""
    workflow = request.loaded.model.model_dump(mode="json")
    write_json(paths.resolved, {"workflow": workflow, "site": request.site.model_dump(mode="json")})


def resident_scripts(request: ResolvedRun, run_request: RunRequest) -> Callable[[str, str | None], Path]:
    """Return the writer of batch scripts for jobs that drive the campaign on their own nodes."""
    scripts = Scripts(request.site, job_shape(request), job_folder(request.context.paths))
    command = run_request.command(request.site, request.context.paths.root)
    return lambda name, after: scripts.resident(name, after, command)


@contextmanager
def nodes_of(
    request: ResolvedRun,
    campaign: OpenCampaign,
    around: BatchEnvironment,
    stop: Stopper,
    run_request: RunRequest,
    notify: Callable[[str], None],
) -> Iterator[tuple[ParslLauncher, Fleet]]:
    """Start Parsl as the site requires, and yield it with the nodes.

    Parameters
    ----------
    request, campaign
        The run and its campaign.
    around
        Batch environment of this process.
    stop
        Receives the batch system's warning.
    run_request
        Request for a successor of this job.
    notify
        Receives messages about waits.
    """
    site, paths = request.site, campaign.paths
    sizes = [size for stage in request.context.sizes.values() for size in stage]
    if site.driver.mode is DriverMode.LOCAL or around.scheduler is None:
        with ParslLauncher(site, paths.parsl, sizes) as launcher:
            yield launcher, HeldFleet(())
        return
    scheduler, prefix = around.scheduler, job_prefix(campaign)
    launches = max_launches(site, request.resources.allocation)
    if site.driver.mode is DriverMode.RESIDENT:
        if not around.job.number:
            raise ConfigError(
                f"Site {site.name} runs the driver inside a batch job, and this process is not in one.",
                f"Submit it: {shlex.join([*SUBMIT, str(run_request.workflow), *run_request.options()])}",
            )
        nodes = retrying(scheduler.my_nodes, notify)
        left = retrying(scheduler.seconds_left, notify)
        shape = replace(job_shape(request), nodes=len(nodes))
        chain = Chain(
            prefix,
            around.job.number,
            scheduler.submit,
            resident_scripts(request, run_request),
            (shape.nodes, shape.hours, shape.queue),
            site.driver.max_jobs,
            around.place(),
        )
        with ParslLauncher(site, paths.parsl, sizes, nodes) as launcher:
            held = HeldJob(
                scheduler,
                chain if _may_chain(site, shape.queue) else None,
                launcher.hold_node,
                stop.warned,
                left,
                float(site.driver.warning_seconds),
                site.scheduler.poll_seconds,
                site.scheduler.missing_job_seconds,
                campaign.state.excluded,
                retrying(scheduler.my_start, notify),
            )
            yield launcher, HeldFleet(nodes, held, launches)
        return
    shape = job_shape(request)
    blocks, place = request.resources.allocation.blocks, retrying(around.place, notify)
    wanted = PilotRequest(blocks, shape.nodes, shape.hours, shape.queue, launches, place)
    with ParslLauncher(site, paths.parsl, sizes, None, shape.nodes) as launcher:
        fleet = PilotFleet(
            wanted,
            scheduler,
            PilotBlocks(Scripts(site, shape, job_folder(paths)), launcher),
            prefix,
            site.scheduler.poll_seconds,
            site.scheduler.missing_job_seconds,
            float(site.driver.warning_seconds),
            launcher.hold_node,
            campaign.state,
        )
        yield launcher, fleet


def _may_chain(site: SiteModel, queue: str) -> bool:
    return queue in site.scheduler.queues and site.scheduler.queues[queue].chaining
