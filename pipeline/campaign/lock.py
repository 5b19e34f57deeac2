"""One driver a campaign, without ``flock`` (which parallel file systems do not keep)."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gfm_pipeline.common.errors import CampaignLocked
from gfm_pipeline.common.publish import storage_errors
from gfm_pipeline.common.records import from_plain, to_plain

HEARTBEAT_SECONDS = 2.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who holds a campaign."""

    host: str
    pid: int
    boot_id: str
    started: float
    process_started: str  # start time of the process in clock ticks: tells a re-used pid


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def _process_started(pid: int) -> str:
    """Return field 22 (starttime) of /proc/PID/stat, or '' when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def this_process() -> Holder:
    """Return the record of the calling process."""
    return Holder(socket.gethostname(), os.getpid(), _boot_id(), time.time(), _process_started(os.getpid()))


def read_holder(path: Path) -> tuple[Holder, float] | None:
    """Return the holder and the age of its heartbeat in seconds, or None when the campaign is free."""
    try:
        age = time.time() - path.stat().st_mtime
        return from_plain(Holder, json.loads(path.read_text())), max(0.0, age)
    except FileNotFoundError:
        return None
    except ValueError:  # torn by a crash while it was written
        return Holder("unknown", 0, "", 0.0, ""), max(0.0, age)


def is_dead(holder: Holder) -> bool | None:
    """Return whether the holder is certainly dead (True), alive (False), or on another host (None)."""
    if holder.host != socket.gethostname():
        return None
    if holder.boot_id and holder.boot_id != _boot_id():
        return True
    started = _process_started(holder.pid)
    return not started or (bool(holder.process_started) and started != holder.process_started)


class CampaignLock:
    """Holds ``path`` by ``O_EXCL`` while in the ``with``, touching it as a heartbeat.

    Raises
    ------
    CampaignLocked
        When another driver holds it, or may hold it from another host.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replaced: Holder | None = None  # a dead driver whose lock was taken over
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="campaign-lock", daemon=True)

    def __enter__(self) -> CampaignLock:
        """Take the lock."""
        with storage_errors(self.path):
            for _ in range(3):
                try:
                    descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                except FileExistsError:
                    self._clear_stale()
                    continue
                with os.fdopen(descriptor, "w") as stream:
                    json.dump(to_plain(this_process()), stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                self._thread.start()
                return self
        raise CampaignLocked(f"{self.path} keeps being taken by other drivers.")

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Let go."""
        self._stop.set()
        self._thread.join(timeout=1)
        self.path.unlink(missing_ok=True)

    def _clear_stale(self) -> None:
        found = read_holder(self.path)
        if found is None:
            return
        holder, age = found
        dead = is_dead(holder)
        if dead:
            # Renamed, not removed: of two drivers that see the same corpse only one succeeds.
            grave = self.path.with_name(f"{self.path.name}.dead-{os.getpid()}")
            try:
                self.path.rename(grave)
            except FileNotFoundError:
                return
            grave.unlink()
            self.replaced = holder
            return
        who = f"pid {holder.pid} on {holder.host}, heartbeat {age:.0f} s ago"
        if dead is None and age > 60:
            raise CampaignLocked(
                f"The campaign is held from another host ({who}), perhaps by a dead driver.",
                f"If that driver is gone: gfm-pipeline unlock {self.path.parent}",
            )
        raise CampaignLocked(f"The campaign is already being driven ({who}).", "Watch it with `gfm-pipeline status`.")

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a slow or full file system must not end the driver
                os.utime(self.path)
