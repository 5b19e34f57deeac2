"""What every program on a compute node shares: how it is called, how it ends.

A program is ``python -m gfm_pipeline.apps.<program> SPEC.json``. Its working folder is the
attempt's own. It touches ``heartbeat`` from its own loop, appends lines to ``progress.jsonl``,
writes ``result.json`` there when it succeeds, leaves at the next safe point when SIGTERM comes
(or ``stop`` appears, which is earlier), and ends with one of `ExitCode`. A program whose next
attempt goes on from what it saved says how far that is in ``saved``. Nothing parses its
standard output. The wrapper keeps ``wrapper.json`` while it runs and leaves ``exit.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gfm_pipeline.common.processes import ProcessId

PROGRESS_FILE = "progress.jsonl"
RESULT_FILE = "result.json"
SPEC_FILE = "spec.json"
STOP_FILE = "stop"
EXIT_FILE = "exit.json"
HEARTBEAT_FILE = "heartbeat"  # touched by the program; silent too long, it is killed
SAVED_FILE = "saved"  # a number that rises with what a next attempt need not do again
WRAPPER_FILE = "wrapper.json"  # a `WrapperRecord`, touched by the wrapper while it lives, removed at its end
CHAOS_FILE = "chaos"  # what `run --chaos` did to the attempt, in a sentence
ERROR_FILE = "error.json"  # {"error": class name, "message": ..., "hint": ...} of an expected error


class ExitCode(IntEnum):
    """How a program on a compute node ended."""

    OK = 0
    DIVERGED = 11  # loss or weights not finite; the result says where
    RETRYABLE = 20  # node, network or storage trouble: the same task may succeed elsewhere
    PREEMPTED = 21  # asked to stop; a checkpoint is saved and the same task continues from it
    OUT_OF_MEMORY = 22  # a smaller micro-batch may fit
    PERMANENT = 30  # the input is at fault; running it again cannot help


@dataclass(frozen=True)
class ExitRecord:
    """How the wrapper saw a program end.

    Parameters
    ----------
    code
        Its exit code; negative: minus the signal that ended it.
    timed_out, silent, stopped
        Whether the wrapper ended it: past its deadline, without heartbeat, or asked to by the stop file.
    seconds
        Wall time.
    out_of_memory
        Whether the kernel killed for want of memory meanwhile; None: the system does not tell.
    host
        Where it ran.
    """

    code: int
    timed_out: bool
    seconds: float
    silent: bool = False
    stopped: bool = False
    out_of_memory: bool | None = None
    host: str = ""


@dataclass(frozen=True)
class WrapperRecord:
    """The processes of a running attempt: the wrapper's own, and the leader of the program's group."""

    wrapper: ProcessId
    program: ProcessId


@dataclass(frozen=True)
class ErrorRecord:
    """An expected error of a program: class name, one sentence, and the fix."""

    error: str
    message: str
    hint: str | None = None
