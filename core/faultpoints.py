"""Named points where the engine, the wrapper or a program writes to disk or starts work, and faults to inject.

Each point calls `reach` with its name, which costs one comparison while nothing is armed. An armed process counts how
often it reached each point and injects the requested `Fault`: it kills itself, or raises the ``OSError`` of a disk that
refuses. A file in the attempt's folder arms wrappers and programs. This is a testing tool behind ``run --fault`` and
``run --chaos``: it never corrupts anything, and only stops where a power cut might.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.strenum import StrEnum


class FaultPoint(StrEnum):
    """All fault points; a test keeps this list equal to the calls of `reach`."""

    LOCK_CREATED = "lock-created"  # the lock's file exists, its holder is not written yet
    LOCK_TAKEN = "lock-taken"
    LOCK_REPLACED = "lock-replaced"  # a dead driver's lock was overwritten
    LOCK_RELEASED = "lock-released"
    JOURNAL_OPENED = "journal-opened"  # the torn tail is cut
    JOURNAL_BEFORE_WRITE = "journal-before-write"
    JOURNAL_BEFORE_SYNC = "journal-before-sync"
    JOURNAL_AFTER_SYNC = "journal-after-sync"
    FILE_BEFORE_WRITE = "file-before-write"  # of a file that is replaced whole: the resolved workflow, specs, records
    FILE_BEFORE_RENAME = "file-before-rename"
    FILE_AFTER_RENAME = "file-after-rename"
    LAUNCHER_STARTED = "launcher-started"
    DRIVER_ORPHAN = "driver-orphan"  # a task that a dead driver left is classified, its end not recorded yet
    PROPOSAL_MADE = "proposal-made"  # a wave is proposed, not recorded yet
    TASK_FOLDER = "task-folder"  # the attempt's folder is made, its spec not written yet
    TASK_SPEC = "task-spec"  # the spec is written, the start not recorded yet
    TASK_RECORDED = "task-recorded"  # the start is recorded, the task not submitted yet
    TASK_SUBMITTED = "task-submitted"
    TASK_CLASSIFIED = "task-classified"  # an attempt's end is read, not recorded yet
    REPORT_MARKDOWN = "report-markdown"  # one of two report files is written
    REPORT_WRITTEN = "report-written"
    WRAPPER_BEFORE_START = "wrapper-before-start"
    WRAPPER_STARTED = "wrapper-started"  # the program runs, the wrapper's record is not written yet
    WRAPPER_ATTENDING = "wrapper-attending"  # the wrapper's record is written
    WRAPPER_AFTER_EXIT = "wrapper-after-exit"  # the program has ended, exit.json is not written yet
    WRAPPER_RECORDED = "wrapper-recorded"
    PUBLISH_BEGUN = "publish-begun"  # the temporary folder exists
    PUBLISH_FILLED = "publish-filled"  # its files are written, none is synced
    PUBLISH_BEFORE_MANIFEST = "publish-before-manifest"
    PUBLISH_BEFORE_RENAME = "publish-before-rename"
    PUBLISH_AFTER_RENAME = "publish-after-rename"  # the folder has its name, which is not synced yet
    PUBLISH_DONE = "publish-done"
    PROGRAM_STARTED = "program-started"
    PROGRAM_BEFORE_RESULT = "program-before-result"
    PROGRAM_RESULT = "program-result"  # result.json is written, the program has not ended


FAULTS_FILE = "faults.json"  # in an attempt's folder: the faults to arm there
KILL = "kill"  # this process
CRASH = "crash"  # the driver, then this process
REFUSALS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "EROFS": errno.EROFS}


@dataclass(frozen=True)
class Fault:
    """What happens when ``point`` is reached for the ``count``-th time.

    Parameters
    ----------
    point
        The fault point.
    count
        From 1, over all processes of a run.
    what
        ``kill``, ``crash`` or a name of `REFUSALS`.
    """

    point: FaultPoint
    count: int = 1
    what: str = KILL

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse a fault written ``NAME[:N[:WHAT]]``; raises `ConfigError` for other texts."""
        name, _, rest = text.partition(":")
        count, _, what = rest.partition(":")
        if name not in list(FaultPoint):
            raise ConfigError(f"There is no fault point {name!r}.", f"Known: {', '.join(FaultPoint)}.")
        actions = (KILL, CRASH, *REFUSALS)
        if (count and not count.isdecimal()) or count == "0" or (what and what not in actions):
            raise ConfigError(
                f"{text!r} is not a fault.", f"Write NAME, NAME:N or NAME:N:WHAT, where WHAT is {', '.join(actions)}."
            )
        return cls(FaultPoint(name), int(count or 1), what or KILL)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"{self.point}:{self.count}:{self.what}"


class Handler(Protocol):
    """Receives the points that this process reaches."""

    def reached(self, point: FaultPoint) -> None:
        """Act on ``point``; may raise, and may not come back."""

    def hand_down(self, folder: Path) -> None:
        """Arm the attempt that is about to start in ``folder``."""


class _Switch:
    handler: Handler | None = None


_SWITCH = _Switch()


def reach(point: FaultPoint) -> None:
    """Report that ``point`` is reached; does nothing unless this process is armed."""
    if _SWITCH.handler is not None:
        _SWITCH.handler.reached(point)


def hand_down(folder: Path) -> None:
    """Arm the attempt that is about to start in ``folder``; does nothing unless this process is armed."""
    if _SWITCH.handler is not None:
        _SWITCH.handler.hand_down(folder)


def arm(handler: Handler | None) -> None:
    """Call ``handler`` with every point that this process reaches; None: disarm."""
    _SWITCH.handler = handler


def arm_from(folder: Path) -> None:
    """Arm this process from ``faults.json`` in ``folder``, or disarm it without that file."""
    try:
        armed = json.loads((folder / FAULTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        arm(None)
        return
    faults = [Fault.parse(text) for text in armed["faults"]]
    arm(Injector(faults, armed["driver"], Path(armed["counts"])))


class Injector:
    """Injects each fault once, when its point is reached for its ``count``-th time.

    Parameters
    ----------
    faults
        In any order.
    driver
        Process that a ``crash`` kills first.
    counts
        Folder that counts over all processes armed with it; it must exist.
    """

    def __init__(self, faults: Iterable[Fault], driver: int, counts: Path) -> None:
        self._faults = tuple(faults)
        self._driver = driver
        self._counts = counts

    def reached(self, point: FaultPoint) -> None:
        """Count the point, and inject the fault when its count is reached."""
        mine = [fault for fault in self._faults if fault.point is point]
        if not mine:
            return
        count = 1
        while not self._mark(f"{point}.{count}"):
            count += 1
        for fault in mine:
            if fault.count == count:
                self._strike(fault)

    def hand_down(self, folder: Path) -> None:
        """Arm an attempt with the same faults and the same counts."""
        armed = {"faults": [str(f) for f in self._faults], "driver": self._driver, "counts": str(self._counts)}
        (folder / FAULTS_FILE).write_text(json.dumps(armed), encoding="utf-8")

    def _mark(self, name: str) -> bool:
        """Create a marker file and return True; return False when it exists."""
        try:
            os.close(os.open(self._counts / name, os.O_CREAT | os.O_EXCL, 0o644))
        except FileExistsError:
            return False
        return True

    def _strike(self, fault: Fault) -> None:
        self._mark(f"struck.{fault}")
        if fault.what in REFUSALS:
            number = REFUSALS[fault.what]
            raise OSError(number, os.strerror(number))
        if fault.what == CRASH:
            with suppress(ProcessLookupError):
                os.kill(self._driver, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
