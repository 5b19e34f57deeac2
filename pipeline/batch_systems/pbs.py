"""PBS Professional through its commands: qsub, qselect, qstat, qdel, pbsnodes.

We wrote this from the manual and tested it with stand-ins for the commands, not with a real PBS.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gfm_pipeline.batch_systems.base import BatchSystem, JobInfo, JobRequest, JobState, clock, whole_number
from gfm_pipeline.batch_systems.commands import SchedulerTrouble
from gfm_pipeline.core.errors import SchedulerUnavailable

WALL_TIME_CODE = -29  # JOB_EXEC_KILL_WALLTIME
SIGNAL_CODES = range(256, 512)  # 256 + number of the signal that ended the job: sent by qdel
DELETED = {"91", "93"}  # substates of deleted jobs

LIVE: dict[str, JobState] = {
    "Q": JobState.PENDING,
    "H": JobState.PENDING,
    "W": JobState.PENDING,
    "T": JobState.PENDING,
    "M": JobState.PENDING,
    "B": JobState.RUNNING,
    "R": JobState.RUNNING,
    "E": JobState.RUNNING,
    "S": JobState.SUSPENDED,
    "U": JobState.SUSPENDED,
}
BAD_NODES = ("down", "offline", "unknown", "unresolvable", "stale", "maintenance", "sleep")

REFUSALS = re.compile(
    r"unknown (queue|resource)|illegal|not allowed|unauthorized|exceeds|no such|invalid|cannot open|not found"
    r"|violates queue|violates server resource limits|account|allocation|project|bad (uid|gid)|usage:",
    re.IGNORECASE,
)
PASSING = re.compile(r"limit.*(queued|per.?user|per.?project)|would exceed|cannot connect|timed? ?out", re.IGNORECASE)


class Pbs(BatchSystem):
    """The batch system of Aurora and Polaris."""

    system = "pbs"
    title = "PBS"
    programs = ("qsub", "qstat", "qdel")
    mark = "#PBS"
    node_names = "awk '!seen[$0]++' \"$PBS_NODEFILE\""
    accepted = "by qsub, which has no way to test a job without submitting it"
    leaking = ("PBS_",)
    kept = frozenset({"PBS_CONF_FILE", "PBS_SERVER"})
    gone = re.compile(r"unknown job id|job has finished|request invalid for state", re.IGNORECASE)

    def __init__(self, environment: Mapping[str, str], seconds: float = 120.0) -> None:
        super().__init__(environment, seconds)
        self._user = pwd.getpwuid(os.getuid()).pw_name

    # ---------------------------------------------------------------- scripts

    @staticmethod
    def directives(job: JobRequest) -> list[str]:
        """Return the options of a job, without ``#PBS``; before the end of the wall time, PBS sends SIGTERM."""
        quote = shlex.quote
        select = f"select={job.nodes}" + (f":{job.select}" if job.select else "")
        return [
            f"-N {quote(job.name)}",
            *([] if job.account is None else [f"-A {quote(job.account)}"]),
            *([] if job.partition is None else [f"-q {quote(job.partition)}"]),
            f"-l {select}",
            f"-l walltime={clock(job.hours)}",
            "-j oe",
            f"-o {quote(job.output)}",
            *([] if job.after is None else [f"-W depend=afterany:{quote(job.after)}"]),
            "-r n",
            *job.directives,
        ]

    # ---------------------------------------------------------------- jobs

    def _submission(self, script: Path, name: str) -> Sequence[str]:
        return ("qsub", "-N", name, str(script))

    def _number(self, printed: str) -> str | None:
        job = (printed.strip().splitlines() or [""])[-1].strip()
        return job if re.fullmatch(r"\d+(\.\S+)?", job) else None

    def _is_refusal(self, complaint: str) -> bool:
        return REFUSALS.search(complaint) is not None and PASSING.search(complaint) is None

    def _find(self, names_or_ids: Collection[str]) -> list[JobInfo]:
        """Return jobs by id and by name, without reading the names of other tools' jobs."""
        ids = [one for one in names_or_ids if one[:1].isdigit()]
        for name in [one for one in names_or_ids if one not in ids]:
            ids += [job for job in self._selected("-x", "-N", name) if job not in ids]
        return self._reported_jobs(ids)

    def _cancellation(self, ids: Sequence[str]) -> Sequence[str]:
        return ("qdel", *ids)

    # ---------------------------------------------------------------- nodes and time

    def bad_nodes(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return those of these nodes that are down, offline or unknown, with their comments."""
        if not nodes:
            return {}
        nodes_reported = self._json("pbsnodes", "-a", "-F", "json").get("nodes", {})
        bad = {}
        for node in nodes:
            facts = nodes_reported.get(node) or nodes_reported.get(node.partition(".")[0])
            states = str(facts.get("state", "")) if facts else ""
            if any(word in states for word in BAD_NODES):
                comment = str(facts.get("comment", ""))
                bad[node] = f"{states}: {comment}" if comment else states
        return bad

    def seconds_left(self) -> float | None:
        """Return the rest of the wall time (s) of the job of this process; None outside a job or without a limit."""
        job = self._environment.get("PBS_JOBID")
        if job is None:
            return None
        found = self._reported_jobs([job])
        if not found:
            raise SchedulerTrouble(f"qstat does not know job {job}.")
        return found[0].seconds_left

    def my_job(self) -> tuple[str, str, int]:
        """Return ID and name of the job of this process, and its number of restarts (-1: unknown)."""
        job = self._environment.get("PBS_JOBID", "")
        facts: dict[str, Any] = {}
        with suppress(SchedulerTrouble, SchedulerUnavailable):
            facts = self._facts([job] if job else []).get(job, {})
        return job, self._environment.get("PBS_JOBNAME", ""), whole_number(str(facts.get("run_count", ""))) - 1

    def cluster(self) -> str:
        """Return the name of the server, without its domain: the job's own, or the default one."""
        if self._cluster is None:
            server = self._environment.get("PBS_JOBID", "").partition(".")[2]
            server = server or str(self._json("qstat", "-B", "-f", "-F", "json").get("pbs_server", ""))
            self._cluster = server.partition(".")[0]
        return self._cluster

    def my_nodes(self) -> tuple[str, ...]:
        """Return the nodes of the job of this process, each once; empty outside a job."""
        path = self._environment.get("PBS_NODEFILE")
        if path is None:
            return ()
        try:
            return tuple(dict.fromkeys(Path(path).read_text().split()))
        except OSError as error:
            raise SchedulerTrouble(f"{path} cannot be read ({error.strerror}).") from error

    # ---------------------------------------------------------------- questions

    def _selected(self, *options: str) -> list[str]:
        """Return the ids of the user's jobs; with ``-x`` also those of ended jobs that PBS still keeps."""
        answer = self._commands.run("qselect", "-u", self._user, *options)
        if answer.code != 0:
            raise SchedulerTrouble(f"qselect failed: {self._complaint(answer)}.")
        return answer.out.split()

    def _reported_jobs(self, ids: Sequence[str]) -> list[JobInfo]:
        return [_info(job, facts) for job, facts in self._facts(ids).items()]

    def _facts(self, ids: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = self._json("qstat", "-x", "-f", "-F", "json", *ids).get("Jobs", {}) if ids else {}
        return found

    def _json(self, *words: str) -> dict[str, Any]:
        answer = self._commands.run(*words)
        if answer.code != 0 and not (answer.out.strip() and self.gone.search(answer.err)):
            if answer.err.strip() and all(self.gone.search(line) for line in answer.err.splitlines() if line.strip()):
                return {}
            raise SchedulerTrouble(f"{words[0]} failed: {self._complaint(answer)}.")
        # PBS does not escape the contents of users' variables.
        for text in (
            answer.out,
            re.sub(r'"Variable_List":\s*\{.*?\n\s*\}', '"Variable_List":{}', answer.out, flags=re.S),
        ):
            try:
                document = json.loads(text)
            except ValueError:
                continue
            if isinstance(document, dict):
                return document
        raise SchedulerTrouble(f"{words[0]} gave an answer nobody understands: {answer.out[:80]!r}.")


def _info(job: str, facts: Any) -> JobInfo:
    """Return a job from the facts of qstat."""
    if not isinstance(facts, dict) or "job_state" not in facts:
        raise SchedulerTrouble(f"qstat gave an answer nobody understands about job {job}.")
    letter = str(facts["job_state"])
    state = LIVE.get(letter) or _ended(facts)
    left = None
    if state is JobState.RUNNING and "walltime" in facts.get("Resource_List", {}):
        left = max(0.0, _seconds(str(facts["Resource_List"]["walltime"])) - _elapsed(facts))
    # "x1000c0s0b0n0/0*64+x1000c0s0b1n0/0*64"
    names = dict.fromkeys(part.partition("/")[0] for part in str(facts.get("exec_host", "")).split("+") if part)
    return JobInfo(job, str(facts.get("Job_Name", "")), state, tuple(names), str(facts.get("comment", letter)), left)


def _ended(facts: dict[str, Any]) -> JobState:
    code = facts.get("Exit_status")
    if code is None:
        return JobState.CANCELLED if str(facts.get("substate")) in DELETED else JobState.FAILED
    if int(code) == WALL_TIME_CODE:
        return JobState.TIMEOUT
    if int(code) in SIGNAL_CODES:
        return JobState.CANCELLED
    return JobState.COMPLETED if int(code) == 0 else JobState.FAILED


def _elapsed(facts: dict[str, Any]) -> float:
    """Return the run time (s) of a job: since its start, or PBS's last count."""
    counted = _seconds(str(facts.get("resources_used", {}).get("walltime", "0:0:0")))
    try:
        started = time.mktime(time.strptime(str(facts.get("stime")), "%a %b %d %H:%M:%S %Y"))
    except ValueError:
        return counted
    return max(counted, time.time() - started)


def _seconds(text: str) -> float:
    parts = text.split(":")
    if not all(part.isdigit() for part in parts):
        raise SchedulerTrouble(f"PBS gave a time nobody understands: {text!r}.")
    return float(sum(int(part) * 60**place for place, part in enumerate(reversed(parts))))
