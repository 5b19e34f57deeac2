"""The interface of batch systems: a declaration that sites read, and commands that submit, look up and end jobs.

Every job has a name that is used only once, so a lost answer never leads to a second submission. Only this module
implements that protocol. A new batch system is a class that fills in the declarations below, named by an
entry point of the group ``gfm_pipeline.batch_systems``; see `docs/add-a-batch-system.md`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gfm_pipeline.batch_systems.commands import CommandOutput, Commands, SchedulerTrouble, SubmissionRefused
from gfm_pipeline.core.strenum import StrEnum

JOB_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class JobState(StrEnum):
    """State of a job."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"  # it holds its nodes, but does not run
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    TIMEOUT = "timeout"
    NODE_FAIL = "node_fail"
    UNKNOWN = "unknown"  # this answer lacks the job; `gfm_pipeline.execution.endings` says what follows
    VANISHED = "vanished"  # missing in all answers for so long that it counts as ended, in an unknown way

    @property
    def has_ended(self) -> bool:
        """Whether the job is over."""
        return self not in (JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN)


@dataclass(frozen=True)
class JobInfo:
    """One job, as the batch system reports it.

    ``nodes`` is empty until the job runs. ``reason`` is why the job waits or ended, in the batch system's words.
    ``seconds_left`` is the rest of its wall time; None while it does not run, or without a limit.
    """

    id: str
    name: str
    state: JobState
    nodes: tuple[str, ...] = ()
    reason: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True)
class JobRequest:
    """The request for a job in a script.

    Parameters
    ----------
    name, nodes, hours
        Name, number of nodes, and wall time.
    partition, qos, account, constraint, select
        As in the site file; None: not requested.
    output
        File for its output; absolute.
    after
        ID of a job that must have ended, with or without success, before this one begins.
    warning
        Signal to the job's shell before the wall time ends, and the seconds from signal to end; None: no signal.
    directives
        Further options of every job of the site.
    """

    name: str
    nodes: int
    hours: float
    partition: str | None
    qos: str | None
    account: str | None
    constraint: str | None
    select: str | None
    output: str
    after: str | None
    warning: tuple[str, int] | None
    directives: tuple[str, ...]


class BatchSystem(ABC):
    """A batch system. Every method that calls its commands may raise `SchedulerTrouble`; try again later.

    Declarations and static methods describe scripts and launch lines; they call no command.

    Parameters
    ----------
    environment
        The environment of this process, which names the batch system and the job of this process.
    seconds
        Time-out of each command.
    """

    system: ClassVar[str]  # name in site files
    title: ClassVar[str]  # for people
    programs: ClassVar[tuple[str, ...]]  # its commands, beginning with those that submit
    mark: ClassVar[str]  # first word of a directive in a script
    node_names: ClassVar[str]  # shell command that prints the names of a job's nodes, one per line, each once
    accepted: ClassVar[str]  # the sign of an accepted job, in words
    mpi_launcher: ClassVar[str] = "mpiexec"  # Parsl's name of the program that starts ranks
    step_cancel: ClassVar[tuple[str, ...]] = ()  # ends a step on all its nodes; ``{step}`` is its number
    unanswered: ClassVar[str] = ""  # expression for the output of a launch line that got no answer and started nothing
    leaking: ClassVar[tuple[str, ...]] = ()  # prefixes of variables that its commands read as options
    kept: ClassVar[frozenset[str]] = frozenset()  # variables that identify the batch system, with any prefix
    gone: ClassVar[re.Pattern[str]]  # message when a job to cancel has already ended

    def __init__(self, environment: Mapping[str, str], seconds: float = 120.0) -> None:
        self._environment = dict(environment)
        passed = {k: v for k, v in environment.items() if k in self.kept or not k.startswith(self.leaking)}
        fix = f"Run this where {self.title}'s commands are on PATH (a login node), or choose another site with --site."
        self._commands = Commands(passed | {"LC_ALL": "C"}, seconds, fix)
        self._unclear: dict[str, str | None] = {}  # names that may have been submitted twice, with the valid job
        self._cluster: str | None = None

    # ---------------------------------------------------------------- scripts and launch lines

    @staticmethod
    @abstractmethod
    def directives(job: JobRequest) -> list[str]:
        """Return the directives that request a job, without their first word."""

    @staticmethod
    def nodelist(nodes: Sequence[str]) -> str:
        """Return names of nodes in the syntax of its launcher."""
        return ",".join(nodes)

    @staticmethod
    def step_variables(job: str) -> dict[str, str] | None:
        """Return variables with which a launch line starts ranks in another job; None: impossible."""
        del job
        return None

    # ---------------------------------------------------------------- what a batch system fills in

    @abstractmethod
    def _submission(self, script: Path, name: str) -> Sequence[str]:
        """Return the command that submits a script under a name."""

    @abstractmethod
    def _number(self, printed: str) -> str | None:
        """Return the ID of the job from the output of the submission; None: the output has none."""

    @abstractmethod
    def _is_refusal(self, complaint: str) -> bool:
        """Return whether a failed submission will always fail."""

    @abstractmethod
    def _find(self, names_or_ids: Collection[str]) -> list[JobInfo]:
        """Return the jobs with these names or ids, including ended ones; the result may include other jobs."""

    @abstractmethod
    def _cancellation(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the command that ends jobs."""

    def _whole(self, job: JobInfo) -> JobInfo:
        """Return a job with the facts that need a further query, for requested jobs only."""
        return job

    def _complaint(self, answer: CommandOutput) -> str:
        """Return the error message of a command in one line, without prefixes."""
        return re.sub(r"^\w+: ", "", answer.complaint).rstrip(".")

    # ---------------------------------------------------------------- jobs

    def submit(self, script: Path, name: str) -> str:
        """Submit ``script`` as the job ``name``, unless a job of that name was submitted; return the job's id.

        Raises
        ------
        SubmissionRefused
            When the batch system will never accept this job.
        """
        known = self._resolved_submission(checked_name(name))
        if known is not None:
            return known
        words = self._submission(script, name)
        try:
            answer = self._commands.run(*words)
        except SchedulerTrouble:
            # The batch system may have accepted the job nevertheless, or may accept it later.
            self._unclear[name] = None
            known = self._resolved_submission(name)
            if known is None:
                raise
            return known
        number = self._number(answer.out) if answer.code == 0 else None
        if number is not None:
            return (self._resolved_submission(name) or number) if name in self._unclear else number
        complaint = self._complaint(answer)
        if answer.code != 0 and self._is_refusal(complaint):
            raise SubmissionRefused(f"{script}: {self.title} refuses the job: {complaint}.")
        self._unclear[name] = None
        known = self._resolved_submission(name)
        if known is not None:
            return known
        raise SchedulerTrouble(f"{words[0]} failed: {complaint}.")

    def _resolved_submission(self, name: str) -> str | None:
        """Return the job with this name, after ending other jobs that got the name by mistake."""
        found = [job for job in self._find([name]) if job.name == name]
        counts = earliest(found)
        if counts is None:
            return None
        if name in self._unclear:
            self._unclear[name] = counts.id
        self._end_doubles(found, name, counts.id)
        return counts.id

    def _end_doubles(self, found: Sequence[JobInfo], name: str, counts: str) -> None:
        self.cancel([job.id for job in found if job.name == name and job.id != counts and not job.state.has_ended])

    def jobs(self, names_or_ids: Collection[str]) -> dict[str, JobInfo]:
        """Return the known facts of jobs, by the given names or ids."""
        if not names_or_ids:
            return {}
        found = self._find([*names_or_ids, *(name for name in self._unclear if name not in names_or_ids)])
        for name, counts in self._unclear.items():
            if counts is not None:
                self._end_doubles(found, name, counts)
        known = {name_or_id: chosen(found, name_or_id) for name_or_id in names_or_ids}
        return {
            name_or_id: missing(name_or_id) if job is None else self._whole(job) for name_or_id, job in known.items()
        }

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; jobs that have already ended raise no error."""
        if ids:
            self._end(self._cancellation(ids))

    def cancel_by_name(self, name: str) -> None:
        """End every job of the user with this name."""
        found = self._find([checked_name(name)])
        self.cancel([job.id for job in found if job.name == name and not job.state.has_ended])

    def _end(self, words: Sequence[str]) -> None:
        answer = self._commands.run(*words)
        lines = [line for line in answer.err.splitlines() if line.strip()]
        if answer.code != 0 and not (lines and all(self.gone.search(line) for line in lines)):
            raise SchedulerTrouble(f"{words[0]} failed: {self._complaint(answer)}.")

    def _checked(self, *words: str) -> CommandOutput:
        answer = self._commands.run(*words)
        if answer.code != 0:
            raise SchedulerTrouble(f"{words[0]} failed: {self._complaint(answer)}.")
        return answer

    def test(self, script: Path) -> str | None:
        """Return why the batch system would refuse ``script``; None when it would accept it, or cannot tell."""
        del script
        return None

    # ---------------------------------------------------------------- this process, its job and its nodes

    @abstractmethod
    def my_job(self) -> tuple[str, str, int]:
        """Return ID and name of the job of this process, and its number of restarts (-1: unknown)."""

    @abstractmethod
    def my_nodes(self) -> tuple[str, ...]:
        """Return the nodes of the job of this process; empty outside a job."""

    @abstractmethod
    def cluster(self) -> str:
        """Return the name of the cluster: other clusters use the same job IDs for other jobs."""

    def seconds_left(self) -> float | None:
        """Return the rest of the wall time (s) of the job of this process; None outside a job or without a limit."""
        number = self.my_job()[0]
        return self.jobs([number])[number].seconds_left if number else None

    def my_start(self) -> float | None:
        """Return the start of the job of this process (Unix seconds); None: unknown."""
        return None

    def job_energy(self, job: str) -> float | None:  # noqa: ARG002 - most do not account for it
        """Return the energy (J) of an ended job on all of its nodes; None: unknown."""
        return None

    def ending(self) -> JobState | None:
        """Return how the batch system is ending the job of this process; None: it is not, or the way is unknown."""
        return None

    def bad_nodes(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return those of these nodes that are down, drained, failing or silent, with the reasons."""
        del nodes
        return {}


def checked_name(name: str) -> str:
    """Return a job's name if it is valid: a name is looked up in the queue and must match at most one job.

    Raises
    ------
    ValueError
        The name is empty or has characters with a special meaning in batch systems.
    """
    if not JOB_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name for a job: letters, digits, and _.- after a letter")
    return name


def whole_number(text: str) -> int:
    """Return the number that a text gives; -1 for other texts."""
    return int(text) if text.isdecimal() else -1


def missing(name_or_id: str) -> JobInfo:
    """Return the facts of a job that is missing in an answer of the batch system."""
    return JobInfo(name_or_id, name_or_id, JobState.UNKNOWN, reason="this answer of the batch system lacks it")


def earliest(jobs: Sequence[JobInfo]) -> JobInfo | None:
    """Return the valid one of the jobs with one name: prefer a job that has not ended, then the oldest."""
    return min(jobs, key=lambda job: (job.state.has_ended, _age(job.id)), default=None)


def _age(job: str) -> tuple[int, str]:
    digits = re.match(r"\d+", job)
    return (int(digits.group()) if digits else 0, job)


def chosen(found: Sequence[JobInfo], name_or_id: str) -> JobInfo | None:
    """Return the found job with this id or name; None: it was not found."""
    return earliest([job for job in found if job.id == name_or_id] or [job for job in found if job.name == name_or_id])


def clock(hours: float) -> str:
    """Return a wall time as HH:MM:SS, rounded down to a second."""
    seconds = int(hours * 3600 + 1e-6)
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
