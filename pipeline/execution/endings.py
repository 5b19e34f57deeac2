"""When a batch job counts as ended: one rule for drivers, locks, chains, `submit`, `cancel` and `sites check`.

One answer that lacks a job is not the job's end: a controller fails over, a site caches its answers, the accounting
database lags. A job has ended when the batch system says how it ended, when the journal holds the job's own last word,
or when every answer has lacked the job for a stated time (``scheduler.missing_job_seconds`` of the site).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from gfm_pipeline.batch_systems.base import BatchSystem, JobInfo, JobState
from gfm_pipeline.execution.retry import retrying

LEAST_ANSWERS = 3  # without the job, however far apart
LONGEST_PAUSE = 10.0  # seconds between two questions of somebody who waits


@dataclass(frozen=True)
class _Absence:
    since: float
    answers: int


class JobEndings:
    """Remembers for how long answers have lacked a job.

    Parameters
    ----------
    seconds
        How long every answer must lack a job before it counts as ended.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._absences: dict[str, _Absence] = {}

    def judge(self, name_or_id: str, info: JobInfo, now: float) -> JobInfo:
        """Return what is known of a job after one more answer, given at ``now`` (s, of a clock that never jumps).

        A job that the answer lacks stays `JobState.UNKNOWN`, and becomes `JobState.VANISHED` when it has been lacking
        for the stated time.
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
    """Return jobs by the names or ids asked for, none of them unknown: the batch system is asked until that is so.

    Parameters
    ----------
    scheduler
        The batch system.
    names_or_ids
        Names or ids.
    seconds
        As in `JobEndings`.
    notify
        Told of waits.
    sleep, clock
        How to wait, and the time (s).

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
