"""The holder of a campaign, as recorded in its lock, and proofs that this holder is dead.

The boot of its machine and its process namespace identify a process, whatever the machine's present name. If the
process cannot be seen, the end of its batch job may prove its death. Nothing else does, and no clock decides.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.core.processes import boot_id, pid_namespace, started
from gfm_pipeline.core.records import from_plain

FORMAT = 2  # of new records; records of format 1 do not contain the format
REBOOT_SECONDS = 30.0  # a heartbeat younger than this cannot date from before a reboot
_PROC = Path("/proc")


@dataclass(frozen=True)
class JobIdentity:
    """A batch job, identified uniquely: another cluster, or the same one a year later, may use the same ID.

    Parameters
    ----------
    number, name
        As in the batch system; '' outside jobs.
    system, cluster
        Batch system and cluster.
    restarts
        How often the batch system has restarted the job with this ID; -1: unknown.
    """

    number: str = ""
    name: str = ""
    system: str = ""
    cluster: str = ""
    restarts: int = -1


NO_JOB = JobIdentity()


@dataclass(frozen=True)
class Holder:
    """The holder of a campaign."""

    host: str
    pid: int
    boot_id: str
    started: float
    process_started: str  # start time of the process in clock ticks: distinguishes a reused pid
    pid_namespace: str = ""  # containers have their own process numbers
    job: str = ""  # the holder's batch job: others may know that it has ended, without seeing the process
    job_name: str = ""
    system: str = ""
    cluster: str = ""
    restarts: int = -1
    format: int = 1

    @property
    def known(self) -> bool:
        """Whether the record is in a known format."""
        return 1 <= self.format <= FORMAT

    def who(self, age: float) -> str:
        """Return a description of the holder for users; ``age`` is that of its heartbeat (s)."""
        job = f", job {self.job}" + (f" of {self.system} cluster {self.cluster}" if self.cluster else "")
        return f"pid {self.pid} on {self.host}{job if self.job else ''}, heartbeat {age:.0f} s ago"


UNKNOWN = Holder("unknown", 0, "", 0.0, "", format=0)


def this_process(job: JobIdentity = NO_JOB) -> Holder:
    """Return the record of the calling process, which runs in batch job ``job``."""
    pid = os.getpid()
    return Holder(
        socket.gethostname(),
        pid,
        boot_id(),
        time.time(),
        started(pid),
        pid_namespace(),
        job.number,
        job.name,
        job.system,
        job.cluster,
        job.restarts,
        FORMAT,
    )


def parse(record: bytes) -> Holder:
    """Return the holder in a record; `UNKNOWN` for a torn record or an unknown format."""
    try:
        holder = from_plain(Holder, json.loads(record))
    except ValueError:
        return UNKNOWN
    return holder if holder.known else UNKNOWN


def is_torn(record: bytes) -> bool:
    """Return whether a record is only the beginning of one of ours: its driver was killed while writing it."""
    text = record.strip(b"\0").rstrip()
    return not text or (text.startswith(b"{") and not text.endswith(b"}"))


def is_dead(holder: Holder, age: float = REBOOT_SECONDS) -> bool | None:
    """Return whether the holder is certainly dead (True), certainly alive (False), or of unknown state (None).

    ``age`` is that of its heartbeat. No heartbeat, however old, makes a holder dead: clocks jump and differ.
    """
    if not holder.known:
        return None
    if not same_boot(holder):
        if holder.host != socket.gethostname() or not holder.boot_id:
            return None
        return True if age >= REBOOT_SECONDS else None  # rebooted, or a different machine with the same name
    if holder.pid_namespace and holder.pid_namespace != pid_namespace():
        return None
    if not holder.pid_namespace and holder.host != socket.gethostname():
        return None  # records of the first version do not identify a container
    return _gone(holder)


def same_boot(holder: Holder) -> bool:
    """Return whether the holder ran on this machine since its boot, whatever the machine's present name."""
    if holder.boot_id and boot_id():
        return holder.boot_id == boot_id()
    return holder.host == socket.gethostname() and holder.boot_id == boot_id()


def was_requeued(holder: Holder, job: JobIdentity) -> bool:
    """Return whether ``job`` is the holder's job after a restart by the batch system: its earlier process is gone."""
    theirs = (holder.job, holder.system, holder.cluster)
    mine = (job.number, job.system, job.cluster)
    return all(mine) and mine == theirs and job.restarts > holder.restarts >= 0


def _gone(holder: Holder) -> bool | None:
    """Return whether the holder's process, on this machine since its present boot, has ended; None: it is hidden."""
    since = started(holder.pid) if _PROC.is_dir() else ""
    if since:
        return bool(holder.process_started) and since != holder.process_started
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's process, hidden by /proc
        return None if _PROC.is_dir() else False
    return _PROC.is_dir()  # a zombie process; without /proc, its state is unknown
