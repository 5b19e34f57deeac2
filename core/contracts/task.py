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

from gfm_pipeline.core.contracts.attempt import (
    ERROR_FILE,
    EXIT_FILE,
    SPEC_FILE,
    STEP_FILE,
    STOP_FILE,
    VERDICT_FILE,
    WRAPPER_FILE,
    ErrorRecord,
    ExitCode,
    ExitRecord,
)
from gfm_pipeline.core.processes import ProcessId

__all__ = [
    "CHAOS_FILE",
    "ERROR_FILE",
    "EXIT_FILE",
    "HEARTBEAT_FILE",
    "PROGRESS_FILE",
    "RESULT_FILE",
    "SAVED_FILE",
    "SPEC_FILE",
    "STEP_FILE",
    "STOP_FILE",
    "VERDICT_FILE",
    "WRAPPER_FILE",
    "ErrorRecord",
    "ExitCode",
    "ExitRecord",
    "WrapperRecord",
]

PROGRESS_FILE = "progress.jsonl"
RESULT_FILE = "result.json"
HEARTBEAT_FILE = "heartbeat"  # touched by the program; silent too long, it is killed
SAVED_FILE = "saved"  # a number that rises with what a next attempt need not do again
CHAOS_FILE = "chaos"  # what `run --chaos` did to the attempt, in a sentence


@dataclass(frozen=True)
class WrapperRecord:
    """The processes of a running attempt: the wrapper's own, and the leader of the program's group."""

    wrapper: ProcessId
    program: ProcessId
