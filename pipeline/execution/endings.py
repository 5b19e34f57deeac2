"""When a batch job counts as ended: one rule for drivers, locks, chains, `submit`, `cancel` and `sites check`.

A single answer without a job does not prove its end: a controller fails over, a site caches its answers, the accounting
database lags. A job has ended when the batch system reports its end, when the journal holds the job's own end,
or when every answer during a certain time (``scheduler.missing_job_seconds`` of the site) lacked the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from gfm_pipeline.batch_systems.base import BatchSystem, JobInfo, JobState
from gfm_pipeline.execution.retry import retrying

LEAST_ANSWERS = 3  # minimum number of answers without the job
LONGEST_PAUSE = 10.0  # longest pause (s) between two queries while waiting


@dataclass(frozen=True)
class _Absence:
    since: float
    answers: int


class JobEndings:
    """Records how long answers have lacked each job.

    Parameters
    ----------
    seconds
        How long (s) all answers must lack a job before it counts as ended.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._absences: dict[str, _Absence] = {}

    def judge(self, name_or_id: str, info: JobInfo, now: float) -> JobInfo:
        """Return the known facts of a job after a further answer at ``now`` (s, of a monotonic clock).

        A job that the answer lacks stays `JobState.UNKNOWN`, and becomes `JobState.VANISHED` when it has been missing
        for the time limit.
        """
        if info.state is not JobState.UNKNOWN:
            self._absences.pop(name_or_id, None)
            return info
        before = self._absences.get(name_or_id, _Absence(now, 0))
        absence = self._absences[name_or_id] = replace(before, answers=before.answers + 1)
        if absence.answers < LEAST_ANSWERS or now - absence.since < self.seconds:
            return info
        reason = f"missing from every answer of the batch system for {now - absence.since:.0f} s"
        return replace(info, state=JobState.VANISHED, reason=reason)


def wait_until_ended(
    scheduler: BatchSystem,
    names_or_ids: Collection[str],
    seconds: float,
    notify: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Mapping[str, JobInfo]:
    """Query the batch system until no job is unknown, and return the jobs by the given names or ids.

    Parameters
    ----------
    scheduler
        The batch system.
    names_or_ids
        Names or ids.
    seconds
        As in `JobEndings`.
    notify
        Receives messages about waits.
    sleep, clock
        Functions that wait, and that give the time (s).

    Raises
    ------
    SchedulerTrouble
        When the batch system does not answer.
    """
    endings, notified = JobEndings(seconds), False
    while True:
        answer = retrying(lambda: scheduler.jobs(names_or_ids), notify)
        found = {name: endings.judge(name, info, clock()) for name, info in answer.items()}
        missing = [name for name, info in found.items() if info.state is JobState.UNKNOWN]
        if not missing:
            return found
        if not notified:
            notified = True
            notify(
                f"The batch system does not know {', '.join(missing)}; asked again for {seconds:.0f} s before that "
                "counts as ended (scheduler.missing_job_seconds of the site)."
            )
        sleep(min(LONGEST_PAUSE, seconds / LEAST_ANSWERS))
