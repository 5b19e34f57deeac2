"""The batch jobs in a campaign's journal, from any site, and their states."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from gfm_pipeline.api.allocate import BatchEnvironment
from gfm_pipeline.api.folders import last_site
from gfm_pipeline.api.run_request import SiteChoice
from gfm_pipeline.batch_systems.base import BatchSystem, JobInfo, JobState
from gfm_pipeline.batch_systems.registry import LOCAL, connected, names
from gfm_pipeline.campaign.events import JobEnded, JobEnergy, JobIntended, JobRole, JobSubmitted, to_entry
from gfm_pipeline.campaign.folder import OpenCampaign
from gfm_pipeline.campaign.holder import JobIdentity
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState, JobRecord
from gfm_pipeline.core.errors import CampaignLocked, ConfigError, SchedulerUnavailable, Stopped
from gfm_pipeline.execution.endings import wait_until_ended
from gfm_pipeline.sites.registry import load_site
from gfm_pipeline.sites.scheduler_schema import SchedulerModel

JOBS_QUERIED = 20  # number of newest jobs whose energy a starting driver queries

Notify = Callable[[str], None]


@dataclass(frozen=True)
class OpenJobs:
    """A campaign's jobs without a known end in one batch system; ``why``: the reason why they cannot be queried.

    ``place`` names batch system and cluster, as in the journal.
    """

    place: tuple[str, str]
    records: dict[str, JobRecord]
    scheduler: BatchSystem | None
    missing_seconds: float
    why: str = ""

    def described(self) -> str:
        """Return a description of the jobs for users."""
        return ", ".join(f"{record.job or 'not numbered'} ({name})" for name, record in self.records.items())

    def where(self) -> str:
        """Return a description of the batch system for users."""
        system, cluster = self.place
        return f"{system} cluster {cluster}" if cluster else system or "a batch system that the journal does not name"

    def query(self, notify: Notify) -> dict[str, JobInfo]:
        """Return the states of the jobs, none of which is unknown.

        Raises
        ------
        SchedulerTrouble
            When the batch system does not answer.
        """
        if self.scheduler is None:
            return {}
        return dict(wait_until_ended(self.scheduler, list(self.records), self.missing_seconds, notify))


def open_jobs(paths: CampaignPaths, state: CampaignState, role: JobRole | None = None) -> list[OpenJobs]:
    """Return the jobs of a campaign that may still run, by batch system, without jobs whose driver has stopped."""
    by_place: dict[tuple[str, str], dict[str, JobRecord]] = {}
    for name, record in state.open_jobs(role).items():
        if not state.driver_left(record.job):
            place = (record.intent.system, record.intent.cluster)
            by_place.setdefault(place, {})[name] = record
    models = {model.kind: model for model in _models(paths, state)} if by_place else {}
    return [_queried(place, records, models) for place, records in by_place.items()]


def _models(paths: CampaignPaths, state: CampaignState) -> Iterator[SchedulerModel]:
    """Yield the batch systems of the campaign's sites, the latest one last."""
    for driver in state.drivers:
        with suppress(ConfigError, KeyError, TypeError, AttributeError):  # a site file that no longer exists
            choice = SiteChoice.from_json(driver.info.resolved.get("site"))
            yield load_site(choice.name, choice.overlays).model.scheduler
    site = last_site(paths)
    if site is not None:
        yield site.scheduler


def _queried(place: tuple[str, str], records: dict[str, JobRecord], models: dict[str, SchedulerModel]) -> OpenJobs:
    """Return jobs with the batch system that can be queried about them here, if any."""
    system, cluster = place
    known = [model for kind, model in models.items() if kind != LOCAL and system in ("", kind)]
    model = known[-1] if known else None
    if model is None and system in names():
        model = SchedulerModel.model_construct(kind=system)
    # a batch system tells a process its job in the environment only
    scheduler = None if model is None else connected(model.kind, os.environ, model.command_timeout_seconds)
    if scheduler is None or model is None:
        return OpenJobs(place, records, None, 0.0, "no batch system is known for them")
    seconds = model.missing_job_seconds
    try:
        here = scheduler.cluster() if cluster else ""
    except SchedulerUnavailable as error:  # includes `SchedulerTrouble`
        return OpenJobs(place, records, None, seconds, error.message.rstrip("."))
    if here != cluster:
        return OpenJobs(place, records, None, seconds, f"this machine belongs to cluster {here or 'without a name'}")
    return OpenJobs(place, records, scheduler, seconds)


@dataclass(frozen=True)
class ActiveJob:
    """A waiting or running job of a campaign, and its batch system."""

    name: str
    number: str
    where: str
    info: JobInfo

    def described(self) -> str:
        """Return a description of the job for users."""
        return f"Job {self.number} ({self.name}, {self.where})"


def still_open(campaign: OpenCampaign, mine: JobIdentity, notify: Notify) -> list[ActiveJob]:
    """Return the living driver jobs of a campaign except ``mine``; record the ends of the others.

    Jobs that cannot be queried here give a message: if one lives, the campaign's lock prevents two drivers.

    Raises
    ------
    SchedulerTrouble
        When a batch system does not answer.
    """
    living = []
    for name, known in campaign.state.open_jobs(JobRole.DRIVER).items():
        if known.job != mine.number and campaign.state.driver_left(known.job):
            record(campaign, JobEnded(name, "its driver ended"))
    for jobs in open_jobs(campaign.paths, campaign.state, JobRole.DRIVER):
        if jobs.scheduler is None:
            notify(
                f"Job {jobs.described()} of this campaign was submitted to {jobs.where()} and may wait or run there: "
                f"it cannot be asked for from here ({jobs.why}). "
                f"There, `gfm-pipeline cancel {campaign.paths.root}` ends it."
            )
            continue
        for name, info in jobs.query(notify).items():
            known = jobs.records[name]
            if info.state.has_ended:
                record(campaign, JobEnded(name, str(info.state)))
                continue
            if not known.job:  # the process that submitted it died with its ID
                record(campaign, JobSubmitted(name, info.id))
            living.append(ActiveJob(name, info.id, jobs.where(), info))
    return living


def refuse_beside_jobs(campaign: OpenCampaign, mine: JobIdentity, notify: Notify) -> None:
    """Refuse to drive a campaign if another job waits or runs for it, except jobs of the same chain.

    Raises
    ------
    CampaignLocked
        When such a job exists.
    """
    chain = campaign.state.open_jobs(JobRole.DRIVER)
    if not chain or (mine.number and (mine.name in chain or any(j.job == mine.number for j in chain.values()))):
        return
    for job in still_open(campaign, mine, notify):
        state = "waits in the queue" if job.info.state is JobState.PENDING else "runs"
        raise CampaignLocked(
            f"{job.described()} of this campaign {state}, and would drive the campaign, too.",
            f"Wait for it (gfm-pipeline status), or cancel it first: gfm-pipeline cancel {campaign.paths.root}",
        )


def record(campaign: OpenCampaign, event: JobIntended | JobSubmitted | JobEnded | JobEnergy) -> None:
    """Journal an event of a job, and fold it into the state."""
    entry = campaign.journal.append(*to_entry(event))
    campaign.state.apply(event, entry.t)


def learn_energy(campaign: OpenCampaign, around: BatchEnvironment) -> None:
    """Journal the batch system's energy of ended jobs, if their nodes have no counters."""
    if around.scheduler is None or campaign.state.measured:
        return
    for name, known in list(campaign.state.jobs.items())[-JOBS_QUERIED:]:
        over = known.ended is not None or campaign.state.driver_left(known.job)
        if not known.job or known.job == around.job.number or not over or known.energy is not None:
            continue
        try:
            joules = around.scheduler.job_energy(known.job)
        except SchedulerUnavailable:  # or it keeps no accounts: query again the next time
            return
        if joules is not None:
            record(campaign, JobEnergy(name, joules, around.scheduler.system))


def is_cancelled(around: BatchEnvironment) -> bool:
    """Return whether a user cancelled the job of this process; False if the batch system cannot tell."""
    with suppress(SchedulerUnavailable):
        return around.scheduler is not None and around.scheduler.ending() is JobState.CANCELLED
    return False


def following(state: CampaignState, mine: JobIdentity) -> str | None:
    """Return the successor of this job, by its ID if it has one; None: no successor."""
    for name, known in state.open_jobs(JobRole.DRIVER).items():
        if mine.number and known.intent.after == mine.number:
            return f"{known.job} ({name})" if known.job else name
    return None


def stop_after_cancelled(campaign: OpenCampaign, around: BatchEnvironment) -> None:
    """Let a job of a chain end at once if a user cancelled the previous job: `scancel` means stop.

    Raises
    ------
    Stopped
        In this case.
    """
    mine = around.job
    for name, known in campaign.state.open_jobs(JobRole.DRIVER).items():
        after = known.intent.after
        if not after or around.scheduler is None or not mine.number or (mine.number != known.job and mine.name != name):
            continue
        with suppress(SchedulerUnavailable):
            before = around.scheduler.jobs([after])[after]
            if before.state is JobState.CANCELLED:
                reason = f"job {after} was cancelled by a person ({before.reason or before.state})"
                record(campaign, JobEnded(name, f"not begun: {reason}"))
                raise Stopped(
                    f"{reason[0].upper()}{reason[1:]}, so the campaign does not go on by itself.",
                    f"Go on with: {shlex.join(['gfm-pipeline', 'resume', str(campaign.paths.root)])}",
                )
