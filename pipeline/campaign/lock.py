"""One driver a campaign, without ``flock`` (which parallel file systems do not keep) and without hard links.

The lock is a file made with ``O_EXCL`` that names its holder. A holder that is certainly dead is replaced: who
wants to replace it takes, in the same way, a second lock whose name is the digest of the dead holder's
record. So of all who see the same corpse one replaces it, and whoever is late finds another record in place.
Who is uncertain (another host, another container) is never replaced, however old its heartbeat: see `unlock`.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gfm_pipeline.core.errors import CampaignLocked, ConfigError
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.core.processes import boot_id, started
from gfm_pipeline.core.publish import storage_errors, write_atomic
from gfm_pipeline.core.records import from_plain, to_plain

HEARTBEAT_SECONDS = 2.0
TORN_SECONDS = 5.0  # a record that is not whole after so long was being written when its driver was killed
REBOOT_SECONDS = 30.0  # a heartbeat this fresh is not one of before a reboot
_PROC = Path("/proc")
_PID_NAMESPACE = _PROC / "self/ns/pid"


@dataclass(frozen=True)
class Holder:
    """Who holds a campaign."""

    host: str
    pid: int
    boot_id: str
    started: float
    process_started: str  # start time of the process in clock ticks: tells a re-used pid
    pid_namespace: str = ""  # a container's process numbers are its own
    job: str = ""  # the batch job it runs in: who cannot see the process may know that the job has ended


def _pid_namespace() -> str:
    try:
        return str(_PID_NAMESPACE.readlink())
    except OSError:
        return ""


def _gone(holder: Holder) -> bool:
    """Return whether the holder's process, of this machine and its present boot, has ended."""
    if not _PROC.is_dir():  # not Linux
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
    since = started(holder.pid)
    return not since or (bool(holder.process_started) and since != holder.process_started)


def this_process(job: str = "") -> Holder:
    """Return the record of the calling process, which runs in batch job ``job``."""
    pid = os.getpid()
    return Holder(socket.gethostname(), pid, boot_id(), time.time(), started(pid), _pid_namespace(), job)


def read_holder(path: Path) -> tuple[Holder, float] | None:
    """Return the holder and the age of its heartbeat in seconds (0 if in the future), or None when it is free."""
    try:
        age = max(0.0, time.time() - path.stat().st_mtime)
        return _parse(path.read_bytes()), age
    except FileNotFoundError:
        return None


def _parse(record: bytes) -> Holder:
    try:
        return from_plain(Holder, json.loads(record))
    except ValueError:  # torn by a crash while it was written
        return Holder("unknown", 0, "", 0.0, "")


def is_dead(holder: Holder, age: float = REBOOT_SECONDS) -> bool | None:
    """Return whether the holder is certainly dead (True), certainly alive (False), or not to be known (None).

    ``age`` is that of its heartbeat. No heartbeat, however old, makes a holder dead: clocks jump and differ.
    """
    if holder.host != socket.gethostname():
        return None
    if holder.boot_id and holder.boot_id != boot_id():
        return True if age >= REBOOT_SECONDS else None  # rebooted, or another machine of the same name
    if holder.pid_namespace and holder.pid_namespace != _pid_namespace():
        return None
    return _gone(holder)


def _record(job: str = "") -> bytes:
    return json.dumps(to_plain(this_process(job))).encode()


def _read(path: Path) -> bytes | None:
    """Return the record in ``path``, after waiting for one that is being written; None: there is no lock."""
    give_up = time.monotonic() + TORN_SECONDS
    while True:
        try:
            record = path.read_bytes()
        except FileNotFoundError:
            return None
        if _whole(record) or time.monotonic() > give_up:
            return record
        time.sleep(0.05)


def _whole(record: bytes) -> bool:
    return record.endswith(b"}")


def _create(path: Path, record: bytes) -> bool:
    """Make ``path`` with ``record`` in it, unless it exists."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        reach(FaultPoint.LOCK_CREATED)
        os.write(descriptor, record)
        os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)  # an empty lock would look like a holder that cannot be known
        raise
    finally:
        os.close(descriptor)
    return True


JobEnded = Callable[[str], bool]


def never_ended(job: str) -> bool:  # noqa: ARG001 - there is no batch system to ask
    """Return False: whether a job has ended is not known."""
    return False


def _acquire(path: Path, record: bytes, job_ended: JobEnded = never_ended) -> Holder | None:
    """Put ``record`` into ``path``, and return the dead holder it replaced, if there was one.

    Raises
    ------
    CampaignLocked
        When a holder lives, or may live.
    """
    for _ in range(5):
        if _create(path, record):
            if _read(path) == record:
                return None
            continue  # so slow to write it that it was taken for torn
        found = _read(path)
        if found is None:
            continue  # let go just now
        corpse, age = _parse(found), _age(path)
        if _whole(found):
            dead = is_dead(corpse, age)
            if dead is None and corpse.job:
                dead = job_ended(corpse.job)  # on another node, but a process does not outlive its batch job
            if not dead:
                raise _held(path, corpse, age)
        guard = path.with_name(f"{path.name}.after-{hashlib.sha256(found).hexdigest()[:12]}")
        _acquire(guard, record, job_ended)
        try:
            if _read(path) == found:  # else someone has replaced it since, and may live
                write_atomic(path, record)
                reach(FaultPoint.LOCK_REPLACED)
                return corpse
        finally:
            guard.unlink(missing_ok=True)
    raise CampaignLocked(f"{path} keeps being taken by other drivers.", "Try again in a minute.")


def _age(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def _held(path: Path, holder: Holder, age: float) -> CampaignLocked:
    who = f"pid {holder.pid} on {holder.host}, heartbeat {age:.0f} s ago"
    if is_dead(holder, age) is None:
        return CampaignLocked(
            f"The campaign is held by a driver that cannot be seen from here ({who}).",
            f"If that driver is certainly gone: gfm-pipeline unlock --force {path.parent}",
        )
    return CampaignLocked(f"The campaign is already being driven ({who}).", "Watch it with `gfm-pipeline status`.")


class CampaignLock:
    """Holds ``path`` while in the ``with``, touching it as a heartbeat.

    Parameters
    ----------
    path
        The lock's file.
    job
        The batch job this process runs in, or ''.
    job_ended
        Asks the batch system whether a job has ended; False when it cannot tell.

    Raises
    ------
    CampaignLocked
        When another driver holds it, or may hold it from another host.
    """

    def __init__(self, path: Path, job: str = "", job_ended: JobEnded = never_ended) -> None:
        self.path = path
        self._job, self._job_ended = job, job_ended
        self.replaced: Holder | None = None  # a dead driver whose lock was taken over
        self._record = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="campaign-lock", daemon=True)

    def __enter__(self) -> CampaignLock:
        """Take the lock."""
        self._record = _record(self._job)
        with storage_errors(self.path):
            self.replaced = _acquire(self.path, self._record, self._job_ended)
        reach(FaultPoint.LOCK_TAKEN)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Let go; a lock that is another's by now is left to it."""
        self._stop.set()
        self._thread.join(timeout=1)
        with suppress(OSError):
            if self._mine():
                self.path.unlink()
                reach(FaultPoint.LOCK_RELEASED)

    def check(self) -> None:
        """Raise `CampaignLocked` when the lock was taken away: two writers must never share a journal."""
        if not self._mine():
            found = read_holder(self.path)
            who = "was removed" if found is None else f"belongs to pid {found[0].pid} on {found[0].host} now"
            raise CampaignLocked(f"This driver lost its campaign: {self.path} {who}.", "Drive it from one place only.")

    def _mine(self) -> bool:
        try:
            return self.path.read_bytes() == self._record
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a slow or full file system must not end the driver
                if self._mine():
                    os.utime(self.path)


def unlock(path: Path, *, force: bool) -> str:
    """Remove the lock of a dead driver, and return who held it ('' when nobody did).

    Raises
    ------
    ConfigError
        When the holder lives, or may live and ``force`` is not given.
    """
    found = read_holder(path)
    if found is None:
        return ""
    holder, age = found
    who = f"pid {holder.pid} on {holder.host}, heartbeat {age:.0f} s ago"
    record = _read(path)
    torn = record is not None and not _whole(record)
    dead = torn or is_dead(holder, age)
    if dead is False:
        raise ConfigError(f"The driver is alive ({who}).", "Stop it with Ctrl-C or SIGTERM.")
    if dead is None and not force:
        raise ConfigError(f"The driver may be alive ({who}).", "If it is certainly gone: unlock --force.")
    if dead:
        with CampaignLock(path):  # taken over and let go: another driver may be doing the same
            pass
    else:
        with storage_errors(path):
            path.unlink(missing_ok=True)
    for guard in path.parent.glob(f"{path.name}.after-*"):
        guard.unlink(missing_ok=True)
    return who
