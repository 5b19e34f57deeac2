"""The contract between a program and its starter: exit codes, and files in the attempt's folder.

`gfm_pipeline.core.contracts.task` is the contract. This module holds the part that the starters of ranks
(`gfm_pipeline.sites`) also need, because sites import the leaf layer only.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from gfm_pipeline.core.contracts.attempts.energy import AttemptEnergy

SPEC_FILE = "spec.json"
STOP_FILE = "stop"
EXIT_FILE = "exit.json"
WRAPPER_FILE = "wrapper.json"  # a `WrapperRecord`, touched by the wrapper while it lives, removed at its end
ERROR_FILE = "error.json"  # {"error": class name, "message": ..., "hint": ...} of an expected error
FIRST_FAILURE_FILE = (
    "verdict"  # exit code, rank and host of the rank that failed first: launchers report codes of their own
)
WRAP_FILE = "wrap.json"  # in the folder of a group's member: the `apps.wrapper.Launch` of its program
ENDED_STEM = "ended-"  # in the folder of a launch that tasks share; the number of an ended task follows
STEP_FILE = "step"  # the batch system's number of the step that runs the ranks
_SIGNALLED = 128  # shells and launchers return this plus the number of the signal that ended a program


class ExitCode(IntEnum):
    """How a program on a compute node ended."""

    OK = 0
    DIVERGED = 11  # loss or weights not finite; the result says where
    RETRYABLE = 20  # node, network or storage trouble: the same task may succeed elsewhere
    PREEMPTED = 21  # asked to stop; a checkpoint is saved and the same task continues from it
    OUT_OF_MEMORY = 22  # a smaller micro-batch may fit
    PERMANENT = 30  # the input is at fault; running it again cannot help


TOGETHER = (ExitCode.DIVERGED, ExitCode.PREEMPTED)  # all ranks of a task end so, or none


@dataclass(frozen=True)
class ExitRecord:
    """How the wrapper saw a program end.

    Parameters
    ----------
    code
        Its exit code; negative: minus the signal that ended it.
    timed_out, silent, stopped
        Whether the wrapper ended it: past its deadline, without heartbeat, or on request by the stop file.
    seconds
        Wall time.
    out_of_memory
        Whether the kernel killed a process for lack of memory meanwhile; None: not known.
    host
        Where it ran.
    energy
        Its energy by the counters of its nodes; None: there are no counters.
    """

    code: int
    timed_out: bool
    seconds: float
    silent: bool = False
    stopped: bool = False
    out_of_memory: bool | None = None
    host: str = ""
    energy: AttemptEnergy | None = None


@dataclass(frozen=True)
class ErrorRecord:
    """An expected error of a program: class name, one sentence, the fix, and lines of a table."""

    error: str
    message: str
    hint: str | None = None
    table: str | None = None


@dataclass(frozen=True)
class AttemptReport:
    """The wrapper's report of an attempt through Parsl: its files may be visible elsewhere only later.

    Parameters
    ----------
    exit
        As in ``exit.json``.
    result, error, saved
        As in ``result.json``, ``error.json`` and ``saved``; None: there was none.
    """

    exit: ExitRecord
    result: dict[str, Any] | None = None
    error: ErrorRecord | None = None
    saved: float | None = None


def shell_code(code: int) -> int:
    """Return the exit code that a process reports for its child's ``code``; minus n is death by signal n."""
    return code if code >= 0 else _SIGNALLED - code


def signalled_code(code: int) -> int:
    """Return ``code`` with death by signal n as minus n again; the reverse of `shell_code`."""
    return _SIGNALLED - code if code > _SIGNALLED else code


def write_first_failure(folder: Path, code: int, rank: int, host: str) -> None:
    """Record which rank failed first and how; later calls change nothing, and errors of the disk are ignored."""
    with suppress(OSError):
        descriptor = os.open(folder / FIRST_FAILURE_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(descriptor, f"{code} {rank} {host}\n".encode())
        finally:
            os.close(descriptor)


def read_first_failure(folder: Path) -> int | None:
    """Return the exit code of the rank that failed first, or None without a record."""
    try:
        code = int((folder / FIRST_FAILURE_FILE).read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return code if code else None
