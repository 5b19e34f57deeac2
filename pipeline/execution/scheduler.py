"""What the driver asks of a batch system, and how its commands are run.

Nothing here fails because a batch system is slow: a command that hangs, fails or answers nonsense raises
`SchedulerTrouble`, and whoever asked comes back later (`Patience` says when). Jobs are told apart by names that are
used once, so that an answer that never came is no reason to submit a second time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gfm_pipeline.core.errors import ConfigError, SchedulerUnavailable
from gfm_pipeline.core.strenum import StrEnum

JOB_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class JobState(StrEnum):
    """Where a job stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"  # it has its nodes, and stands still
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    TIMEOUT = "timeout"
    NODE_FAIL = "node_fail"
    UNKNOWN = "unknown"  # this answer lacks the job; `gfm_pipeline.execution.endings` says what follows
    VANISHED = "vanished"  # every answer has lacked it for so long that it counts as ended, nobody can say how

    @property
    def has_ended(self) -> bool:
        """Whether the job is over."""
        return self not in (JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN)


@dataclass(frozen=True)
class JobInfo:
    """One job, as the batch system tells it.

    ``nodes`` is empty until it runs; ``reason`` is why it waits or ended, in the batch system's words;
    ``seconds_left`` of its wall time, None while it does not run or where there is no limit.
    """

    id: str
    name: str
    state: JobState
    nodes: tuple[str, ...] = ()
    reason: str = ""
    seconds_left: float | None = None


class SchedulerTrouble(SchedulerUnavailable):
    """A command of the batch system was too slow, failed, or gave an answer nobody understands; it may pass."""


class SubmissionRefused(ConfigError):
    """The batch system understood a job and will not take it: account, queue, size or wall time."""


class Scheduler(Protocol):
    """A batch system. Every method may raise `SchedulerTrouble`; ask again later."""

    system: str  # its kind, as site files name it

    def submit(self, script: Path, name: str) -> str:
        """Submit ``script`` as the job ``name``, unless a job of that name was submitted; return the job's id.

        Raises `SubmissionRefused` when it will never be taken as it is.
        """

    def jobs(self, names_or_ids: Collection[str]) -> dict[str, JobInfo]:
        """Return what is known of jobs, by the names or ids asked for."""

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; those that have ended are no trouble."""

    def cancel_by_name(self, name: str) -> None:
        """End every job of the user with this name."""

    def bad_nodes(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return, of these nodes, those that are down, drained, failing or silent, with the reason."""

    def seconds_left(self) -> float | None:
        """Return the rest of the wall time of the job this process runs in; None outside of one or without limit."""

    def my_job(self) -> tuple[str, str, int]:
        """Return number and name of the job this process runs in, and how often it was begun again (-1: not known)."""

    def ending(self) -> JobState | None:
        """Return how the job this process runs in is being ended; None: it is not, or nobody can tell yet."""

    def cluster(self) -> str:
        """Return the name of the cluster that is asked: the number of a job is another one's elsewhere."""

    def my_nodes(self) -> tuple[str, ...]:
        """Return the nodes of the job this process runs in; empty outside of one."""

    def test(self, script: Path) -> str | None:
        """Return why the batch system would refuse ``script``; None when it would take it, or cannot tell."""


@dataclass(frozen=True)
class Patience:
    """How long to leave a batch system alone after trouble: a pure value, the clock is the caller's.

    Parameters
    ----------
    first_seconds, most_seconds
        The first pause; it doubles with each further trouble, up to the second.
    failures
        Troubles in a row.
    until
        Time (seconds, of the caller's clock) before which nothing should be asked.
    """

    first_seconds: float = 5.0
    most_seconds: float = 300.0
    failures: int = 0
    until: float = float("-inf")

    def after_trouble(self, now: float) -> Patience:
        """Return the patience to have after one more trouble."""
        pause = min(self.most_seconds, self.first_seconds * 2.0 ** min(self.failures, 60))
        return replace(self, failures=self.failures + 1, until=now + pause)

    def after_success(self) -> Patience:
        """Return the patience to have after an answer."""
        return Patience(self.first_seconds, self.most_seconds)

    def seconds_to_wait(self, now: float) -> float:
        """Return how long to wait before asking again; 0 when it may be asked."""
        return max(0.0, self.until - now)


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """What it said about its failure, in one line."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


@dataclass(frozen=True)
class Commands:
    """Runs commands of a batch system, each within a time.

    Parameters
    ----------
    environment
        Theirs, whole.
    seconds
        A command that takes longer is killed with all it started.
    fix
        What to do when a command does not exist.
    """

    environment: Mapping[str, str]
    seconds: float
    fix: str

    def has(self, program: str) -> bool:
        """Return whether a command exists."""
        return shutil.which(program, path=self.environment.get("PATH")) is not None

    def run(self, *words: str) -> Answer:
        """Run a command to its end.

        Raises
        ------
        SchedulerUnavailable
            It does not exist.
        SchedulerTrouble
            It took too long, or could not be started for now.
        """
        program = shutil.which(words[0], path=self.environment.get("PATH"))
        if program is None:
            raise SchedulerUnavailable(f"The command {words[0]} does not exist on this machine.", hint=self.fix)
        try:
            process = subprocess.Popen(
                [program, *words[1:]],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C at the driver is not for it, and it can be killed whole
            )
        except OSError as error:
            raise SchedulerTrouble(f"{words[0]} could not be started ({error.strerror}).") from error
        with process:
            try:
                out, err = process.communicate(timeout=self.seconds)
            except BaseException as error:  # Ctrl-C too must not leave a command that goes on
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise SchedulerTrouble(f"{words[0]} did not answer within {self.seconds:g} s.") from error
                raise
        return Answer(process.returncode, out, err)


def checked_name(name: str) -> str:
    """Return a job's name when it is one: it is matched in the queue, and must never match more than one job.

    Raises
    ------
    ValueError
        It is empty or has letters that batch systems read otherwise.
    """
    if not JOB_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a job: letters, digits, and _.- after a letter")
    return name


def whole_number(text: str) -> int:
    """Return a number as text; -1 for what is none."""
    return int(text) if text.isdecimal() else -1


def missing(asked: str) -> JobInfo:
    """Return what is said of a job that an answer of the batch system lacks."""
    return JobInfo(asked, asked, JobState.UNKNOWN, reason="this answer of the batch system lacks it")


def earliest(jobs: Sequence[JobInfo]) -> JobInfo | None:
    """Return, of jobs with one name, the one that counts: one that has not ended before others, then the oldest."""
    return min(jobs, key=lambda job: (job.state.has_ended, _age(job.id)), default=None)


def _age(job: str) -> tuple[int, str]:
    digits = re.match(r"\d+", job)
    return (int(digits.group()) if digits else 0, job)
