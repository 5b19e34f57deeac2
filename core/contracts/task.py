"""The contract of every program on a compute node: its call, and its end.

A program is ``python -m gfm_pipeline.apps.<program> SPEC.json``. Its working folder is the attempt's own. It touches
``heartbeat`` from its own loop, appends lines to ``progress.jsonl``, and writes ``result.json`` when it succeeds. After
SIGTERM (or the file ``stop``, which appears earlier) it exits at the next safe point. It ends with one of `ExitCode`. A
program whose next attempt can continue from saved work writes its progress to ``saved``. Nothing parses its standard
output. The wrapper keeps ``wrapper.json`` while it runs and leaves ``exit.json``.
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
HEARTBEAT_FILE = "heartbeat"  # touched by the program; after too long a silence the program is killed
SAVED_FILE = "saved"  # a number that rises with the work that a next attempt need not repeat
CHAOS_FILE = "chaos"  # the action of `run --chaos` on the attempt, in a sentence


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
        Graphs in memory at a time per rank, after attempts that ran out of memory; None: the value in the spec.
    ranks, threads
        Processes of the task, and threads of each.
    device
        Device of the task, by torch's name: ``cpu``, ``cuda`` or ``xpu``.
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
    """The interface of all specs to the engine. Specs are frozen dataclasses that inherit from this class."""

    def inputs(self) -> tuple[str, ...]:
        """Return the published folders that the program reads; the engine recreates missing ones."""
        return ()

    def assigned(self, given: Assignment) -> Self:  # noqa: ARG002 - what a program of one rank on the CPU needs: nothing
        """Return the spec of one attempt: this spec with the program's inputs from ``given``."""
        return self

    @property
    def divisible_batch(self) -> int | None:
        """Graphs per batch that can be split when memory runs out; None: the program has no such batch."""
        return None
