"""The contract of every program on a compute node: its call, and its end.

A program is ``python -m gfm_pipeline.apps.<program> SPEC.json``. Its working folder is the
attempt's own. It touches ``heartbeat`` from its own loop, appends lines to ``progress.jsonl``,
writes ``result.json`` there when it succeeds, leaves at the next safe point when SIGTERM comes
(or ``stop`` appears, which is earlier), and ends with one of `ExitCode`. A program whose next
attempt goes on from what it saved says how far that is in ``saved``. Nothing parses its
standard output. The wrapper keeps ``wrapper.json`` while it runs and leaves ``exit.json``.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import Self

from gfm_pipeline.core.contracts.attempts.records import (
    ERROR_FILE,
    EXIT_FILE,
    FIRST_FAILURE_FILE,
    SPEC_FILE,
    STEP_FILE,
    STOP_FILE,
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
    "FIRST_FAILURE_FILE",
    "HEARTBEAT_FILE",
    "PROGRESS_FILE",
    "RESULT_FILE",
    "SAVED_FILE",
    "SPEC_FILE",
    "STEP_FILE",
    "STOP_FILE",
    "WRAPPER_FILE",
    "Assignment",
    "ErrorRecord",
    "ExitCode",
    "ExitRecord",
    "TaskSpec",
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


@dataclass(frozen=True)
class Assignment:
    """Inputs of one attempt at a task, in addition to the task's spec.

    Parameters
    ----------
    previous_attempts
        Working folders of the earlier attempts at the task, newest last.
    micro_batch
        Graphs in memory at a time per rank, after attempts that ran out of memory; None: as the spec says.
    ranks, threads
        Processes of the task, and threads of each.
    device
        Where the task computes, by torch's name: ``cpu``, ``cuda`` or ``xpu``.
    compile
        When a training compiles its pass: ``never``, ``auto`` or ``always``.
    """

    previous_attempts: tuple[str, ...]
    micro_batch: int | None
    ranks: int
    threads: int
    device: str
    compile: str = "never"


class TaskSpec:
    """What the engine may ask of the spec of any program. Specs are frozen dataclasses that inherit from this class."""

    def inputs(self) -> tuple[str, ...]:
        """Return the published folders the program reads; the engine makes those that are gone again."""
        return ()

    def assigned(self, given: Assignment) -> Self:  # noqa: ARG002 - what a program of one rank on the CPU needs: nothing
        """Return the spec of one attempt: this one, with what the program wants to know of ``given``."""
        return self

    @property
    def divisible_batch(self) -> int | None:
        """Graphs that may be computed in smaller parts when memory runs out; None: the program has no such batch."""
        return None
