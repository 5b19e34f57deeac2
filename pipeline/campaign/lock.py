"""One driver per campaign, without ``flock`` (which parallel file systems do not keep) and without hard links.

The lock is a file made with ``O_EXCL`` that names its holder. A certainly dead holder is replaced: a driver that
wants to replace it first takes, in the same way, a second lock whose name is the digest of the dead holder's
record. So only one of the drivers that find a dead holder replaces its record; later drivers find the new record.
A holder of uncertain state (another host, another container) is never replaced, however old its heartbeat: see
`unlock`. `gfm_pipeline.campaign.holder` contains the proofs of death.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from gfm_pipeline.campaign.holder import (
    NO_JOB,
    Holder,
    JobIdentity,
    is_dead,
    is_torn,
    parse,
    same_boot,
    this_process,
    was_requeued,
)
from gfm_pipeline.core.errors import CampaignLocked, ConfigError
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.core.publish import storage_errors, write_atomic
from gfm_pipeline.core.records import to_plain

HEARTBEAT_SECONDS = 2.0
TORN_SECONDS = 5.0  # a record that is incomplete for so long belongs to a driver killed while writing it
STILL_SECONDS = 5 * HEARTBEAT_SECONDS  # time without a heartbeat before a machine counts as rebooted
UNLOCK = "If that driver is certainly gone: gfm-pipeline unlock --force"


def read_holder(path: Path) -> tuple[Holder, float] | None:
    """Return the holder and the age of its heartbeat in seconds (0 if in the future), or None for a free lock."""
    try:
        age = max(0.0, time.time() - path.stat().st_mtime)
        return parse(path.read_bytes()), age
    except FileNotFoundError:
        return None


def _record(job: JobIdentity) -> bytes:
    return json.dumps(to_plain(this_process(job))).encode()


def _read(path: Path) -> bytes | None:
    """Return the record in ``path``, after waiting for a write in progress; None: there is no lock."""
    give_up = time.monotonic() + TORN_SECONDS
    while True:
        try:
            record = path.read_bytes()
        except FileNotFoundError:
            return None
        if not is_torn(record) or time.monotonic() > give_up:
            return record
        time.sleep(0.05)


def _create(path: Path, record: bytes) -> bool:
    """Create ``path`` with ``record`` in it, unless it exists."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        reach(FaultPoint.LOCK_CREATED)
        os.write(descriptor, record)
        os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)  # an empty lock would look like an unknown holder
        raise
    finally:
        os.close(descriptor)
    return True


JobEndedFn = Callable[[Holder], bool]


def never_ended(holder: Holder) -> bool:  # noqa: ARG001 - there is no batch system to ask
    """Return False: it is unknown whether the holder's job has ended."""
    return False


def _acquire(path: Path, record: bytes, job: JobIdentity, job_ended: JobEndedFn) -> Holder | None:
    """Write ``record`` to ``path``, and return the replaced dead holder, if any.

    Raises
    ------
    CampaignLocked
        When the holder lives, or may live.
    """
    for _ in range(5):
        if _create(path, record):
            if _read(path) == record:
                return None
            continue  # the write was so slow that the record seemed torn
        found = _read(path)
        if found is None:
            continue  # just released
        corpse = parse(found)
        if not is_torn(found) and not _has_died(path, found, job, job_ended):
            raise _held(path, corpse, _age(path))
        guard = path.with_name(f"{path.name}.after-{hashlib.sha256(found).hexdigest()[:12]}")
        _acquire(guard, record, job, job_ended)
        try:
            if _read(path) == found:  # else another driver has replaced it, and may live
                write_atomic(path, record)
                reach(FaultPoint.LOCK_REPLACED)
                return corpse
        finally:
            guard.unlink(missing_ok=True)
    raise CampaignLocked(f"{path} is locked by other drivers again and again.", "Try again in a minute.")


def _has_died(path: Path, record: bytes, job: JobIdentity, job_ended: JobEndedFn) -> bool:
    """Return whether the process that wrote ``record`` has died; a changing heartbeat proves that it lives."""
    holder, before = parse(record), _heartbeat_of(path)
    dead = is_dead(holder, _age(path))
    if dead and not same_boot(holder):  # a machine of the same name may live: watch its heartbeat, not the clock
        give_up = time.monotonic() + STILL_SECONDS
        while time.monotonic() < give_up and _heartbeat_of(path) == before:
            time.sleep(0.2)
        return _heartbeat_of(path) == before
    if dead is None and holder.known and holder.job:  # on another node; but no process outlives its batch job
        return (was_requeued(holder, job) or job_ended(holder)) and _heartbeat_of(path) == before
    return bool(dead)


def _heartbeat_of(path: Path) -> int:
    """Return the time of the last heartbeat by the file system's clock; only differences are meaningful."""
    try:
        with open(path, "rb") as file:  # opening makes a network file system refresh its metadata
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def _age(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def _held(path: Path, holder: Holder, age: float) -> CampaignLocked:
    if not holder.known:
        return CampaignLocked(
            f"{path} is a lock of an unknown format: a driver of a newer version may hold the campaign.",
            f"Upgrade gfm-pipeline. {UNLOCK} {path.parent}",
        )
    if is_dead(holder, age) is None:
        return CampaignLocked(
            f"The campaign is held by a driver on another machine, which may be alive ({holder.who(age)}).",
            f"{UNLOCK} {path.parent}",
        )
    return CampaignLocked(
        f"The campaign is already being driven ({holder.who(age)}).", "Watch it with `gfm-pipeline status`."
    )


class CampaignLock:
    """Holds ``path`` within the ``with`` block, and touches it as a heartbeat.

    Parameters
    ----------
    path
        The lock's file.
    job
        The batch job this process runs in.
    job_ended
        Asks the batch system whether a holder's job has ended; returns False when it cannot tell.

    Raises
    ------
    CampaignLocked
        When another driver holds the lock, or may hold it from another host.
    """

    def __init__(self, path: Path, job: JobIdentity = NO_JOB, job_ended: JobEndedFn = never_ended) -> None:
        self.path = path
        self._job, self._job_ended = job, job_ended
        self.replaced: Holder | None = None  # the dead driver whose lock this one took over
        self._record = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name="campaign-lock", daemon=True)

    def __enter__(self) -> CampaignLock:
        """Take the lock."""
        self._record = _record(self._job)
        with storage_errors(self.path):
            self.replaced = _acquire(self.path, self._record, self._job, self._job_ended)
        reach(FaultPoint.LOCK_TAKEN)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Release the lock, unless it now belongs to another driver."""
        self._stop.set()
        self._thread.join(timeout=1)
        with suppress(OSError):
            if self._mine():
                self.path.unlink()
                reach(FaultPoint.LOCK_RELEASED)

    def check(self) -> None:
        """Raise `CampaignLocked` if this driver lost the lock: two writers must never share a journal."""
        if not self._mine():
            found = read_holder(self.path)
            who = "was removed" if found is None else f"belongs to pid {found[0].pid} on {found[0].host} now"
            raise CampaignLocked(
                f"This driver lost the lock of its campaign: {self.path} {who}.",
                "Run the campaign from one place only.",
            )

    def _mine(self) -> bool:
        try:
            return self.path.read_bytes() == self._record
        except FileNotFoundError:
            return False

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a slow or full file system must not end the driver
                if self._mine():
                    os.utime(self.path)


def unlock(path: Path, *, force: bool) -> str:
    """Remove the lock of a dead driver, and return its holder ('' for a free lock).

    Raises
    ------
    ConfigError
        When the holder lives, or may live and ``force`` is not given.
    """
    found = read_holder(path)
    if found is None:
        return ""
    holder, age = found
    who = holder.who(age) if holder.known else "a lock of a format that is not known here"
    record = _read(path)
    torn = record is not None and is_torn(record)
    dead = torn or is_dead(holder, age)
    if dead is False:
        raise ConfigError(f"The driver is alive ({who}).", "Stop it with Ctrl-C or SIGTERM.")
    if dead is None and not force:
        raise ConfigError(f"The driver may be alive ({who}).", "If it is certainly gone: unlock --force.")
    if dead:
        with CampaignLock(path):  # take over and release: another driver may do the same
            pass
    else:
        with storage_errors(path):
            path.unlink(missing_ok=True)
    for guard in path.parent.glob(f"{path.name}.after-*"):
        guard.unlink(missing_ok=True)
    return who
