"""Jobs that drive a campaign on their own nodes, one after the other, until the campaign is done.

Each job submits its successor as soon as it runs. The successor begins after the end of the job, so the chain survives
a failed node or a kill. The job that finishes the campaign cancels its successor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from gfm_pipeline.campaign.events import Event, JobIntended, JobRole, JobSubmitted
from gfm_pipeline.campaign.state import CampaignState, JobRecord

FRUITLESS = 3  # limit of consecutive jobs in which no task finished or saved progress


# Writes the batch script of the job of this name, which begins after the end of another job; returns its path.
ScriptMaker = Callable[[str, str | None], Path]


def job_name(prefix: str, state: CampaignState) -> str:
    """Return the unique name of the next job of the chain."""
    return f"{prefix}-j{sum(j.intent.role is JobRole.DRIVER for j in state.jobs.values()) + 1:03d}"


def chain_ends(state: CampaignState, max_jobs: int) -> str | None:
    """Return why no further job should be submitted, or None."""
    jobs = [j for j in state.jobs.values() if j.intent.role is JobRole.DRIVER]
    if len(jobs) >= max_jobs:
        return f"the chain has had {max_jobs} jobs (driver.max_jobs of the site)"
    return fruitless(state)


def fruitless(state: CampaignState) -> str | None:
    """Return the sentence that the last jobs did no lasting work; None if they did some."""
    drivers = [d for d in state.drivers if d.info.job]
    if len(drivers) > FRUITLESS and not _progress_since(state, drivers[-1 - FRUITLESS].started, drivers[-1].started):
        return f"in {FRUITLESS} jobs in a row no task finished and none saved anything"
    return None


def _progress_since(state: CampaignState, begin: float, end: float) -> bool:
    for stage in state.stages.values():
        for task in stage.tasks.values():
            for attempt in task.history:
                ended = attempt.started + attempt.seconds
                if begin <= ended <= end and (attempt.saved is not None or task.result is not None):
                    return True
    return False


class Chain:
    """The successor of this driver's job.

    Parameters
    ----------
    prefix
        Prefix of the jobs' names; unique to the campaign.
    job
        ID of this job.
    submit
        Submits a script under a name; called outside the driver's loop.
    script
        Writes scripts.
    shape
        Nodes, hours and queue of each job.
    max_jobs
        Largest number of jobs in the chain.
    place
        Batch system and cluster of the jobs.
    """

    def __init__(
        self,
        prefix: str,
        job: str,
        submit: Callable[[Path, str], str],
        script: ScriptMaker,
        shape: tuple[int, float, str],
        max_jobs: int,
        place: tuple[str, str] = ("", ""),
    ) -> None:
        self._prefix, self._job, self._submit, self._script = prefix, job, submit, script
        self._shape, self._max_jobs, self._place = shape, max_jobs, place
        self.name: str | None = None  # of the successor
        self.refused: str | None = None  # why there is none

    def intend(self, state: CampaignState) -> Iterator[Event]:
        """Record the intent to submit a successor, unless there is one."""
        for name, known in state.open_jobs(JobRole.DRIVER).items():
            if known.job != self._job and self._follows(known):
                self.name = name  # submitted by an earlier driver of this same job
                return
        self.refused = chain_ends(state, self._max_jobs)
        if self.refused is None:
            self.name = job_name(self._prefix, state)
            yield JobIntended(self.name, JobRole.DRIVER, *self._shape, self._job, *self._place)

    def others(self, state: CampaignState) -> list[str]:
        """Return the jobs of the chain on this cluster, without this job and its successor, that may have ended."""
        return [
            name
            for name, known in state.open_jobs(JobRole.DRIVER).items()
            if name != self.name
            and known.job != self._job
            and (known.intent.system, known.intent.cluster) in (self._place, ("", ""))
        ]

    def _follows(self, known: JobRecord) -> bool:
        """Return whether a job begins after this one; for records of the first version, by its ID."""
        if known.intent.after:
            return known.intent.after == self._job
        return not known.intent.system and int_or_zero(known.job) > int_or_zero(self._job)

    def question(self) -> Callable[[], str]:
        """Return a function that submits the successor, for a call outside the driver's loop."""
        name = self.name or ""
        script = self._script(name, self._job)
        return lambda: self._submit(script, name)

    def submitted(self, job: str) -> JobSubmitted:
        """Return the event of a successful submission."""
        return JobSubmitted(self.name or "", job)


def int_or_zero(job: str) -> int:
    """Return the leading digits of a job's ID: batch systems count upwards."""
    digits = ""
    for character in job:
        if not character.isdecimal():
            break
        digits += character
    return int(digits or 0)
