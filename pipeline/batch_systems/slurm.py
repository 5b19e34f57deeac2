"""Slurm through its commands: sbatch, squeue, scancel, sinfo, scontrol, and sacct if it works."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gfm_pipeline.batch_systems.base import (
    BatchSystem,
    JobInfo,
    JobRequest,
    JobState,
    checked_name,
    chosen,
    clock,
    whole_number,
)
from gfm_pipeline.batch_systems.commands import CommandOutput, SchedulerTrouble
from gfm_pipeline.batch_systems.slurm_syntax import fold, parse_seconds

QUEUE_FORMAT = "%A|%T|%L|%N|%r|%j"  # names last: other tools' names may contain the separator or line breaks
ACCOUNT_FIELDS = "JobIDRaw,State,NodeList,JobName"
ACCOUNT_DAYS = 14
AT_THE_END = 60.0  # largest rest of wall time (s) at its end: Slurm checks its clock only at intervals

STATES: dict[str, JobState] = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,  # its nodes are not free yet, and the way it ended is unknown
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.SUSPENDED,
    "SUSPENDED": JobState.SUSPENDED,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "PREEMPTED": JobState.PREEMPTED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "NODE_FAIL": JobState.NODE_FAIL,
    "BOOT_FAIL": JobState.NODE_FAIL,
}

# Draining nodes keep their current job ("draining"), so the campaign may keep using them.
BAD_NODES = frozenset({"DOWN", "DRAINED", "FAIL", "FAILING", "ERROR", "UNKNOWN", "NO_RESPOND"})

# These words mean a permanent refusal. Other failures may pass, e.g. a limit on queued jobs.
REFUSALS = re.compile(
    r"\binvalid\b(?!.*(credential|user id))|not permitted|configuration (is )?not available|permission denied"
    r"|more processors requested|memory required by task|exceeds|dependency problem"
    r"|unrecognized option|unable to open file|does not look like a batch script",
    re.IGNORECASE,
)


ENERGY = "ConsumedEnergyRaw"


class Slurm(BatchSystem):
    """The batch system of most machines."""

    system = "slurm"
    title = "Slurm"
    programs = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")
    mark = "#SBATCH"
    node_names = 'scontrol show hostnames "$SLURM_JOB_NODELIST"'
    accepted = "by sbatch --test-only"
    mpi_launcher = "srun"
    step_cancel = ("scancel", "{step}")
    # srun asks slurmctld for its job, then for a step (existing_allocation and create_job_step in Slurm's sources).
    unanswered = (
        r"Unable to (confirm allocation|create step)\b.*: (Unable to contact slurm controller|Socket timed out on)"
    )
    leaking = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SINFO_", "SACCT_", "SCONTROL_")
    kept = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS"})
    gone = re.compile(r"invalid job id|already completing or completed", re.IGNORECASE)

    def __init__(self, environment: Mapping[str, str], seconds: float = 120.0) -> None:
        super().__init__(environment, seconds)
        self._has_accounting = self._commands.has("sacct")
        self._hosts: dict[str, tuple[str, ...]] = {}

    # ---------------------------------------------------------------- scripts and launch lines

    @staticmethod
    def directives(job: JobRequest) -> list[str]:
        """Return the options of a job, without ``#SBATCH``."""
        quote = shlex.quote
        return [
            f"-J {quote(job.name)}",
            *([] if job.account is None else [f"-A {quote(job.account)}"]),
            *([] if job.partition is None else [f"-p {quote(job.partition)}"]),
            *([] if job.qos is None else [f"-q {quote(job.qos)}"]),
            f"-N {job.nodes}",
            f"-t {clock(job.hours)}",
            *([] if job.constraint is None else [f"-C {quote(job.constraint)}"]),
            f"-o {quote(job.output)}",
            *([] if job.after is None else [f"--dependency=afterany:{quote(job.after)}"]),
            # A restarted job would find the campaign locked; the driver itself replaces a lost node.
            "--no-requeue",
            "--no-kill",
            *([] if job.warning is None else [f"--signal=B:{job.warning[0]}@{job.warning[1]}"]),
            *job.directives,
        ]

    @staticmethod
    def nodelist(nodes: Sequence[str]) -> str:
        """Return folded names: thousands of names would exceed the 128 KiB that Linux allows per argument."""
        return fold(nodes)

    @staticmethod
    def step_variables(job: str) -> dict[str, str]:
        """Return the variable that names the job in which srun starts a step."""
        return {"SLURM_JOB_ID": job}

    # ---------------------------------------------------------------- jobs

    def _submission(self, script: Path, name: str) -> Sequence[str]:
        return ("sbatch", "--parsable", f"--job-name={name}", str(script))

    def _number(self, printed: str) -> str | None:
        match = re.fullmatch(r"(\d+)(;.*)?", (printed.strip().splitlines() or [""])[-1].strip())
        return None if match is None else match[1]

    def _is_refusal(self, complaint: str) -> bool:
        return REFUSALS.search(complaint) is not None

    def _find(self, names_or_ids: Collection[str]) -> list[JobInfo]:
        """Return the user's jobs from the queue, and those missing there from the accounting database."""
        found = self._queue()
        for name_or_id in names_or_ids:
            if chosen(found, name_or_id) is None:
                found += self._accounted(f"{'--jobs' if name_or_id.isdigit() else '--name'}={name_or_id}")
        return found

    def _whole(self, job: JobInfo) -> JobInfo:
        return replace(job, nodes=self._expand(",".join(job.nodes)))

    def _cancellation(self, ids: Sequence[str]) -> Sequence[str]:
        return ("scancel", *ids)

    def cancel_by_name(self, name: str) -> None:
        """End every job of the user with this name; slurmctld itself finds them."""
        self._end(("scancel", "--me", f"--name={checked_name(name)}"))

    def _complaint(self, answer: CommandOutput) -> str:
        return _complaint(answer)

    def test(self, script: Path) -> str | None:
        """Return why Slurm would refuse ``script``; None when it would accept it."""
        answer = self._commands.run("sbatch", "--test-only", str(script))
        complaint = _complaint(answer)
        if answer.code != 0 and not REFUSALS.search(complaint):
            raise SchedulerTrouble(f"sbatch --test-only failed: {complaint}.")
        return complaint if answer.code != 0 else None

    # ---------------------------------------------------------------- nodes and time

    def bad_nodes(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return those of these nodes that are down, drained, failing or silent, with the reasons."""
        if not nodes:
            return {}
        names, bad = set(nodes), {}
        for name, state, reason in self._table("sinfo", "%N|%T|%E", "--noheader", "--all", "--Node"):
            words = state.upper().rstrip("*~#!%$@^-+")
            if name in names and (words in BAD_NODES or state.endswith("*")):
                bad[name] = state if reason.lower() in ("none", "") else f"{state}: {reason}"
        return bad

    def seconds_left(self) -> float | None:
        """Return the rest of the wall time (s) of the job of this process; None outside a job or without a limit."""
        job = self._environment.get("SLURM_JOB_ID")
        if job is None:
            return None
        end = self._environment.get("SLURM_JOB_END_TIME", "")
        if end.isdigit():  # Slurm 23.02 and newer
            return max(0.0, float(end) - time.time())
        answer = self._checked("squeue", "--noheader", f"--jobs={job}", "--format=%L")
        return parse_seconds(answer.out.strip())

    def my_start(self) -> float | None:
        """Return the start of the job of this process (Unix seconds); None outside a job."""
        job, start = self._environment.get("SLURM_JOB_ID"), self._environment.get("SLURM_JOB_START_TIME", "")
        if job is None or start.isdigit():  # Slurm 23.02 and newer
            return float(start) if job is not None else None
        used = parse_seconds(self._checked("squeue", "--noheader", f"--jobs={job}", "--format=%M").out.strip())
        return None if used is None else time.time() - used

    def job_energy(self, job: str) -> float | None:
        """Return the energy (J) that Slurm accounted for a job's allocation; steps would count whole nodes again."""
        if not self._has_accounting:
            return None
        output = self._checked(
            "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", f"--format={ENERGY}"
        )
        text = output.out.strip().splitlines()[0] if output.out.strip() else ""
        return float(text) if text.isdecimal() and int(text) > 0 else None

    def my_job(self) -> tuple[str, str, int]:
        """Return ID and name of the job of this process, and its number of restarts."""
        variables = self._environment
        return (
            variables.get("SLURM_JOB_ID", ""),
            variables.get("SLURM_JOB_NAME", ""),
            whole_number(variables.get("SLURM_RESTART_COUNT", "0")),
        )

    def ending(self) -> JobState | None:
        """Return how Slurm is ending the job of this process; None: it is not, or the way is unknown.

        While a job completes, Slurm does not give the reason: a preempted job has a time of preemption, and a job
        before the end of its wall time was cancelled.
        """
        job = self._environment.get("SLURM_JOB_ID")
        if job is None:
            return None
        fields = "--Format=State:30,PreemptTime:30,TimeLeft:30"
        words = self._checked("squeue", "--noheader", f"--jobs={job}", "--states=all", fields).out.split()
        if len(words) != 3:
            return None
        state, preempted, left = words
        known = STATES.get(state, JobState.RUNNING)
        if state != "COMPLETING":
            return known if known.has_ended else None
        if preempted not in ("N/A", "None"):
            return JobState.PREEMPTED
        seconds = parse_seconds(left)
        return JobState.TIMEOUT if seconds is not None and seconds < AT_THE_END else JobState.CANCELLED

    def cluster(self) -> str:
        """Return the name of the cluster: of the job, or from slurm.conf."""
        if self._cluster is None:
            name = self._environment.get("SLURM_CLUSTER_NAME", "")
            if not (name and "SLURM_JOB_ID" in self._environment):
                found = re.search(r"^ClusterName\s*=\s*(\S+)", self._checked("scontrol", "show", "config").out, re.M)
                name = found[1] if found is not None else ""
            self._cluster = name
        return self._cluster

    def my_nodes(self) -> tuple[str, ...]:
        """Return the nodes of the job of this process; empty outside a job."""
        return self._expand(self._environment.get("SLURM_JOB_NODELIST", ""))

    def _expand(self, expression: str) -> tuple[str, ...]:
        """Return the names in a list of nodes, e.g. ``node[1-3,7]``."""
        if not expression:
            return ()
        if expression not in self._hosts:
            names = self._checked("scontrol", "show", "hostnames", expression).out.split()
            if not names:
                raise SchedulerTrouble(f"scontrol did not expand the list of nodes {expression!r}.")
            self._hosts[expression] = tuple(names)
        return self._hosts[expression]

    # ---------------------------------------------------------------- questions

    def _queue(self) -> list[JobInfo]:
        """Return the user's jobs that Slurm still holds, including jobs that ended a few minutes ago.

        ``nodes`` of each job holds Slurm's node list as one string.
        """
        words = ("--me", "--noheader", "--states=all")
        found = []
        for job, state, left, nodes, reason, name in self._table("squeue", QUEUE_FORMAT, *words):
            known = _state("squeue", job, state, nodes)
            seconds = parse_seconds(left) if known is JobState.RUNNING else None
            why = reason if known is JobState.PENDING else state
            found.append(JobInfo(job, name, known, (nodes,) if nodes else (), why, seconds))
        return found

    def _accounted(self, which: str) -> list[JobInfo]:
        """Return jobs from the accounting database, if there is one."""
        if not self._has_accounting:
            return []
        # One job at a time: names are the last field, and may contain line breaks.
        answer = self._commands.run(
            "sacct", "--allocations", "--noheader", "--parsable2", f"--user={os.getuid()}",
            f"--starttime=now-{ACCOUNT_DAYS}days", f"--format={ACCOUNT_FIELDS}", which,
        )  # fmt: skip
        if answer.code != 0 and "disabled" in answer.err + answer.out:
            self._has_accounting = False
            return []
        found = []
        for job, state, nodes, name in _accounts(answer):
            word = state.split()[0] if state else ""  # "CANCELLED by 0"
            nodes = "" if nodes.startswith("None") else nodes
            found.append(JobInfo(job, name, _state("sacct", job, word, nodes), (nodes,) if nodes else (), state))
        return found

    def _table(self, program: str, fields: str, *words: str) -> list[list[str]]:
        """Return the fields of each record; the last field may contain anything, even line breaks and separators."""
        mark = f"{secrets.token_hex(6)}|"  # first field of a record; random, so no job name contains it
        return _records(program, self._commands.run(program, *words, f"--format={mark}{fields}"), mark, fields)


def _state(program: str, job: str, state: str, nodes: str) -> JobState:
    """Return a job's state; a job with an unknown state counts as not ended."""
    if not job.isdigit() or not re.fullmatch(r"[A-Z_]+", state):
        raise SchedulerTrouble(f"{program} gave an answer nobody understands: {job[:40]!r} {state[:40]!r}.")
    return STATES.get(state, JobState.RUNNING if nodes else JobState.PENDING)


def _records(program: str, answer: CommandOutput, mark: str, fields: str) -> list[list[str]]:
    """Return the fields of the records in an answer, each after a mark."""
    if answer.code != 0:
        raise SchedulerTrouble(f"{program} failed: {_complaint(answer)}.")
    first, *records = answer.out.split(mark)
    rows = [record.split("|", fields.count("|")) for record in records]
    odd = [first] if first.strip() else ["|".join(row) for row in rows if len(row) != fields.count("|") + 1]
    if odd:
        raise SchedulerTrouble(f"{program} gave an answer nobody understands: {odd[0][:80]!r}.")
    return [[*(field.strip() for field in row[:-1]), row[-1].removesuffix("\n")] for row in rows]


def _accounts(answer: CommandOutput) -> list[list[str]]:
    """Return the fields of the lines of sacct that begin a record; other lines are parts of names."""
    if answer.code != 0:
        raise SchedulerTrouble(f"sacct failed: {_complaint(answer)}.")
    rows = [line.split("|", 3) for line in answer.out.splitlines() if re.match(r"\d+\|[A-Z_]+[^|]*\|[^|]*\|", line)]
    if answer.out.strip() and not rows:
        raise SchedulerTrouble(f"sacct gave an answer nobody understands: {answer.out.strip()[:80]!r}.")
    return [[field.strip() for field in row] for row in rows]


def _complaint(answer: CommandOutput) -> str:
    """Return the error message of a Slurm command in one line, without prefixes."""
    text = answer.err.strip() or answer.out.strip() or f"exit code {answer.code}"
    messages = [
        re.sub(r"^\w+: (error: )?(Batch job submission failed: )?", "", line.strip()) for line in text.splitlines()
    ]
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in messages if line))
