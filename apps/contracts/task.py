"""What every program on a compute node shares: how it is called, how it ends.

A program is ``python -m gfm_pipeline.apps.<program> SPEC.json``. Its working folder is the
attempt's own. It appends lines to ``progress.jsonl``, writes ``result.json`` there when it
succeeds, leaves at the next safe point when ``stop`` appears or SIGTERM comes, and ends
with one of `ExitCode`. Nothing parses its standard output.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

PROGRESS_FILE = "progress.jsonl"
RESULT_FILE = "result.json"
SPEC_FILE = "spec.json"
STOP_FILE = "stop"
EXIT_FILE = "exit.json"
HEARTBEAT_FILE = "heartbeat"
ERROR_FILE = "error.json"  # {"error": class name, "message": ..., "hint": ...} of an expected error


class ExitCode(IntEnum):
    """How a program on a compute node ended."""

    OK = 0
    DIVERGED = 11  # loss or weights not finite; the result says where
    RETRYABLE = 20  # node, network or storage trouble: the same task may succeed elsewhere
    PREEMPTED = 21  # asked to stop; a checkpoint is saved and the same task continues from it
    PERMANENT = 30  # the input is at fault; running it again cannot help


@dataclass(frozen=True)
class ExitRecord:
    """How the wrapper saw a program end: its code (negative: minus the signal), and wall seconds."""

    code: int
    timed_out: bool
    seconds: float


@dataclass(frozen=True)
class ErrorRecord:
    """An expected error of a program: class name, one sentence, and the fix."""

    error: str
    message: str
    hint: str | None = None
