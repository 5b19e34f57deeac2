"""Waits for the job of a check: reports its state, compares clocks, and never leaves the job behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.batch_systems.base import BatchSystem, JobInfo, JobState
from gfm_pipeline.batch_systems.commands import SchedulerTrouble
from gfm_pipeline.core.publish import write_atomic
from gfm_pipeline.core.records import read_record
from gfm_pipeline.execution.endings import JobEndings
from gfm_pipeline.execution.preflight.observations import (
    DONE_FILE,
    HEAD_FILE,
    LAUNCHES,
    PING_FILE,
    PONG_FILE,
    STEP_NOW,
    Pong,
    Skew,
)
from gfm_pipeline.execution.preflight.probe import PING_SECONDS
from gfm_pipeline.execution.retry import Backoff, retrying

POLL_SECONDS = 0.25  # between two looks at files
LATE_SECONDS = 5.0  # wait for files of an ended job to become visible here, if it has written none so far, and
LATER_SECONDS = 30.0  # if it has written one
OVER_SECONDS = 300.0  # the check gives up a job that runs so long beyond its wall time

Notify = Callable[[str], None]


@dataclass(frozen=True)
class JobOutcome:
    """How the wait ended: the clocks, and the reason for giving up, as a sentence ('': the job is done)."""

    job: str
    skew: Skew | None
    trouble: str = ""
    fix: str = ""


class JobMonitor:
    """Follows one job from its submission to its end.

    Parameters
    ----------
    scheduler
        The batch system.
    folder
        Folder of the check, with the files of the job.
    queue, hours
        The job's.
    poll_seconds
        Seconds between two queries of the queue.
    missing_seconds
        How long (s) all answers must lack the job before it counts as ended.
    wait_seconds
        Longest time in the queue.
    say
        Receives messages about changes.
    """

    def __init__(
        self,
        scheduler: BatchSystem,
        folder: Path,
        queue: str,
        hours: float,
        poll_seconds: float,
        missing_seconds: float,
        wait_seconds: float,
        notify: Notify,
    ) -> None:
        self.scheduler, self.folder, self.queue, self.hours = scheduler, folder, queue, hours
        self.poll_seconds, self.wait_seconds, self.notify = poll_seconds, wait_seconds, notify
        self._endings = JobEndings(missing_seconds)
        self._reported = ""
        self._patience = Backoff()
        self._next_poll = float("-inf")
        self._info: JobInfo | None = None

    def run(self, script: Path, name: str) -> JobOutcome:
        """Submit the job and wait for its end; cancel the job if the wait is given up.

        Raises
        ------
        SubmissionRefused, SchedulerUnavailable
            As `BatchSystem.submit`.
        """
        job = ""
        try:
            job = retrying(lambda: self.scheduler.submit(script, name), self.notify)
            self.notify(f"Submitted job {job} ({name}) to queue {self.queue}.")
            watched = self._wait(job)
        except BaseException:  # even Ctrl-C must not leave a job in the queue
            self._cancel(job, name)
            raise
        if watched.trouble:
            self._cancel(job, name)
        return watched

    def _cancel(self, job: str, name: str) -> None:
        try:
            if job:
                self.scheduler.cancel([job])
            else:
                self.scheduler.cancel_by_name(name)
        except SchedulerTrouble as error:
            why = error.message.rstrip(".")
            self.notify(f"Job {job or name} could not be cancelled ({why}); it ends by itself within its wall time.")

    def _wait(self, job: str) -> JobOutcome:
        submitted, started, ended = time.monotonic(), None, None
        skew: Skew | None = None
        while True:
            now = time.monotonic()
            if started is None and (self.folder / HEAD_FILE).exists():
                started = now
                self._report(f"Job {job} runs.")
                skew = compare_clocks(self.folder)
            done = (self.folder / DONE_FILE).exists()
            self._poll(job, now, hurry=done)
            over = self._over()
            if over and ended is None:
                ended = now
            if (done and over) or (
                ended is not None and now - ended > (LATE_SECONDS if not started else LATER_SECONDS)
            ):
                return JobOutcome(job, skew)
            waiting = started is None and not self._runs()
            if waiting and now - submitted > self.wait_seconds:
                return self._gave_up(job)
            if now - (started or now) > self.hours * 3600 + OVER_SECONDS:
                if done:
                    return JobOutcome(job, skew)
                return JobOutcome(
                    job, skew, f"job {job} did not end within its wall time", "Look at it with squeue or qstat."
                )
            if started is not None and not done:
                with suppress(OSError):
                    launch = (self.folder / STEP_NOW).read_text(encoding="ascii")
                    self._report(f"Job {job} runs: {LAUNCHES.get(launch, launch)}.")
            time.sleep(POLL_SECONDS)

    def _poll(self, job: str, now: float, *, hurry: bool) -> None:
        """Query the state of the job if a query is due; wait if the batch system has trouble."""
        if hurry:
            self._next_poll = min(self._next_poll, max(now, self._patience.until) + 1.0)
        if now < self._next_poll or self._patience.seconds_to_wait(now) > 0:
            return
        try:
            self._info = self._endings.judge(job, self.scheduler.jobs([job])[job], now)
        except SchedulerTrouble as error:
            self._patience = self._patience.after_trouble(now)
            self._next_poll = self._patience.until
            wait = self._patience.seconds_to_wait(now)
            self.notify(f"The batch system does not answer ({error.message.rstrip('.')}); asked again in {wait:.0f} s.")
            return
        self._patience = self._patience.after_success()
        self._next_poll = now + self.poll_seconds
        if self._info.state is JobState.PENDING:
            self._report(f"Job {job} waits in queue {self.queue}{self._reason()}.")

    def _runs(self) -> bool:
        return self._info is not None and self._info.state is JobState.RUNNING

    def _over(self) -> bool:
        """Return whether the job has ended; if its last file exists, one answer without the job is enough."""
        if self._info is None:
            return False
        gone = self._info.state is JobState.UNKNOWN and (self.folder / DONE_FILE).exists()
        return gone or self._info.state.has_ended

    def _gave_up(self, job: str) -> JobOutcome:
        waited = f"{self.wait_seconds / 60:g} minutes in queue {self.queue}{self._reason()}"
        return JobOutcome(
            job,
            None,
            f"job {job} waited {waited}; it was cancelled",
            "Wait longer with --wait MINUTES, or take another queue with --queue.",
        )

    def _reason(self) -> str:
        """Return in brackets why the job waits, in the batch system's words."""
        if self._info is None or self._info.reason in ("", "None"):
            return ""
        return f" ({self._info.reason})"

    def _report(self, text: str) -> None:
        if text != self._reported:
            self._reported = text
            self.notify(text)


def compare_clocks(folder: Path) -> Skew | None:
    """Ask the job for the time; return how far its clock is ahead of ours, or None without an answer."""
    sent = time.time()
    write_atomic(folder / PING_FILE, b"")
    until = time.monotonic() + PING_SECONDS
    while time.monotonic() < until:
        if (folder / PONG_FILE).exists():
            received = time.time()
            return Skew(read_record(Pong, folder / PONG_FILE).time - (sent + received) / 2, (received - sent) / 2)
        time.sleep(0.02)
    return None
