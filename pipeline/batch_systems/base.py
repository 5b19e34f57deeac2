"""The interface of batch systems: a declaration that sites read, and commands that submit, look up and end jobs.

Jobs are told apart by names that are used once, so an answer that never came is not a reason to submit a second time:
that protocol is written here, once. A further batch system is a class that fills in what is declared below, named by an
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


@dataclass(frozen=True)
class JobRequest:
    """A job as a script asks for it.

    Parameters
    ----------
    name, nodes, hours
        What it is called, how many nodes it gets, and for how long.
    partition, qos, account, constraint, select
        As the site file has them; None: not asked for.
    output
        File for what it says; absolute.
    after
        Number of a job that must have ended, well or badly, before this one begins.
    warning
        Signal that the job's shell gets before the wall time ends, and how many seconds before; None: none.
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
    """A batch system. Every method that asks it may raise `SchedulerTrouble`; ask again later.

    What is declared, and the static methods, describe scripts and launch lines and ask nobody.

    Parameters
    ----------
    environment
        The environment of this process: it says which batch system it is, and which job this process runs in.
    seconds
        Time-out of each command.
    """

    system: ClassVar[str]  # as site files name it
    title: ClassVar[str]  # for people
    programs: ClassVar[tuple[str, ...]]  # its commands, those that submit first
    mark: ClassVar[str]  # begins a directive in a script
    node_names: ClassVar[str]  # shell command that prints the names of a job's nodes, one per line, each once
    accepted: ClassVar[str]  # how one knows that it takes a job
    mpi_launcher: ClassVar[str] = "mpiexec"  # Parsl's word for what starts ranks
    step_cancel: ClassVar[tuple[str, ...]] = ()  # ends a step on all its nodes; ``{step}`` is its number
    unanswered: ClassVar[str] = ""  # expression for what a launch line says that got no answer and started nothing
    leaking: ClassVar[tuple[str, ...]] = ()  # prefixes of variables that its commands would read as options
    kept: ClassVar[frozenset[str]] = frozenset()  # variables that say which batch system it is, whatever their prefix
    gone: ClassVar[re.Pattern[str]]  # what is said of a job that has ended already, when it is to be ended

    def __init__(self, environment: Mapping[str, str], seconds: float = 120.0) -> None:
        self._environment = dict(environment)
        passed = {k: v for k, v in environment.items() if k in self.kept or not k.startswith(self.leaking)}
        fix = f"Run this where {self.title}'s commands are on PATH (a login node), or choose another site with --site."
        self._commands = Commands(passed | {"LC_ALL": "C"}, seconds, fix)
        self._unclear: dict[str, str | None] = {}  # names that may have been submitted twice, with the job that counts
        self._cluster: str | None = None

    # ---------------------------------------------------------------- scripts and launch lines

    @staticmethod
    @abstractmethod
    def directives(job: JobRequest) -> list[str]:
        """Return the directives that ask for a job, without their mark."""

    @staticmethod
    def nodelist(nodes: Sequence[str]) -> str:
        """Return names of nodes as its launcher takes them."""
        return ",".join(nodes)

    @staticmethod
    def step_variables(job: str) -> dict[str, str] | None:
        """Return variables that let a launch line start ranks in another job; None: it cannot be told which one."""
        del job
        return None

    # ---------------------------------------------------------------- what a batch system fills in

    @abstractmethod
    def _submission(self, script: Path, name: str) -> Sequence[str]:
        """Return the command that submits a script under a name."""

    @abstractmethod
    def _number(self, printed: str) -> str | None:
        """Return the number of the job from what the submission printed; None: there is none in it."""

    @abstractmethod
    def _is_refusal(self, complaint: str) -> bool:
        """Return whether a failed submission will fail for ever."""

    @abstractmethod
    def _find(self, names_or_ids: Collection[str]) -> list[JobInfo]:
        """Return the jobs known under these names or ids, ended ones too; others may be among them."""

    @abstractmethod
    def _cancellation(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the command that ends jobs."""

    def _whole(self, job: JobInfo) -> JobInfo:
        """Return a job with what is asked for only once it is known to be wanted."""
        return job

    def _complaint(self, answer: CommandOutput) -> str:
        """Return what a command said of its failure, in one line, without its prefixes."""
        return re.sub(r"^\w+: ", "", answer.complaint).rstrip(".")

    # ---------------------------------------------------------------- jobs

    def submit(self, script: Path, name: str) -> str:
        """Submit ``script`` as the job ``name``, unless a job of that name was submitted; return the job's id.

        Raises
        ------
        SubmissionRefused
            When it will never be taken as it is.
        """
        known = self._resolved_submission(checked_name(name))
        if known is not None:
            return known
        words = self._submission(script, name)
        try:
            answer = self._commands.run(*words)
        except SchedulerTrouble:
            # It may have been taken all the same, now or when the batch system gets to it.
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
        """Return the job that has this name, after ending others that got it by mistake."""
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
        """Return what is known of jobs, by the names or ids asked for."""
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
        """End jobs; those that have ended are no trouble."""
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
        """Return why the batch system would refuse ``script``; None when it would take it, or cannot tell."""
        del script
        return None

    # ---------------------------------------------------------------- this process, its job and its nodes

    @abstractmethod
    def my_job(self) -> tuple[str, str, int]:
        """Return number and name of the job this process runs in, and how often it was begun again (-1: not known)."""

    @abstractmethod
    def my_nodes(self) -> tuple[str, ...]:
        """Return the nodes of the job this process runs in; empty outside of one."""

    @abstractmethod
    def cluster(self) -> str:
        """Return the name of the cluster that is asked: the number of a job is another one's elsewhere."""

    def seconds_left(self) -> float | None:
        """Return the rest of the wall time of the job this process runs in; None outside of one or without limit."""
        number = self.my_job()[0]
        return self.jobs([number])[number].seconds_left if number else None

    def my_start(self) -> float | None:
        """Return when the job this process runs in began (Unix seconds); None: it is not told."""
        return None

    def job_energy(self, job: str) -> float | None:  # noqa: ARG002 - most do not account for it
        """Return the energy of a job that is over (J), on all of its nodes; None: it is not known."""
        return None

    def ending(self) -> JobState | None:
        """Return how the job this process runs in is being ended; None: it is not, or nobody can tell yet."""
        return None

    def bad_nodes(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return, of these nodes, those that are down, drained, failing or silent, with the reason."""
        del nodes
        return {}


def checked_name(name: str) -> str:
    """Return a job's name when it is one: it is matched in the queue, and must never match more than one job.

    Raises
    ------
    ValueError
        It is empty or has letters that batch systems read otherwise.
    """
    if not JOB_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name for a job: letters, digits, and _.- after a letter")
    return name


def whole_number(text: str) -> int:
    """Return a number as text; -1 for what is none."""
    return int(text) if text.isdecimal() else -1


def missing(name_or_id: str) -> JobInfo:
    """Return what is said of a job that an answer of the batch system lacks."""
    return JobInfo(name_or_id, name_or_id, JobState.UNKNOWN, reason="this answer of the batch system lacks it")


def earliest(jobs: Sequence[JobInfo]) -> JobInfo | None:
    """Return, of jobs with one name, the one that counts: one that has not ended before others, then the oldest."""
    return min(jobs, key=lambda job: (job.state.has_ended, _age(job.id)), default=None)


def _age(job: str) -> tuple[int, str]:
    digits = re.match(r"\d+", job)
    return (int(digits.group()) if digits else 0, job)


def chosen(found: Sequence[JobInfo], name_or_id: str) -> JobInfo | None:
    """Return, of the jobs found, the one asked for by its id or its name; None: it is not there."""
    return earliest([job for job in found if job.id == name_or_id] or [job for job in found if job.name == name_or_id])


def clock(hours: float) -> str:
    """Return a wall time as HH:MM:SS, rounded down to a second."""
    seconds = int(hours * 3600 + 1e-6)
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
