"""The start and end of every program on a compute node; `gfm_pipeline.core.contracts.task` is the contract."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from gfm_pipeline.core.contracts.task import (
    ERROR_FILE,
    HEARTBEAT_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    SAVED_FILE,
    STOP_FILE,
    ErrorRecord,
    ExitCode,
)
from gfm_pipeline.core.errors import DataError, GFMError, NodeError, StorageError
from gfm_pipeline.core.faultpoints import FaultPoint, arm_from, reach
from gfm_pipeline.core.publish import storage_errors, write_atomic, write_record
from gfm_pipeline.core.records import read_record

S = TypeVar("S")
_RETRYABLE = (StorageError, NodeError, OSError)
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")  # torch, CUDA, HIP, C++
_NO_DEVICE = ("cuda error", "hip error", "xpu error", "level zero error")  # messages of a failing accelerator
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # batch systems announce the end of a job by SIGUSR1
LOST_SECONDS = 1.0  # delay of the exit of a rank that lost another one, so that the failed rank reports first
_PERMANENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
LOG = logging.getLogger(__name__)


class StopRequested(Exception):
    """Raised at a safe point after SIGTERM, SIGINT or the stop file; ends the program with ``PREEMPTED``."""


@dataclass
class Task:
    """The attempt of a program: it sends progress and heartbeats, and receives requests to stop.

    `stop_requested`, `check` and `report_progress` also send heartbeats; a program that does not call them for long
    calls `heartbeat` from its loop.

    Attributes
    ----------
    folder
        The attempt's folder.
    interval
        Seconds between two progress lines, two checks for the stop file, and two heartbeats.
    rank
        Number of this process within the task. Only rank 0 writes files and checks for the stop file; a program with
        several ranks sets it as soon as it is known.
    """

    folder: Path
    interval: float = 1.0
    rank: int = 0
    _signalled: bool = field(default=False, init=False)
    _stop_file_found: bool = field(default=False, init=False)
    _last_line: float = field(default=float("-inf"), init=False)
    _last_poll: float = field(default=float("-inf"), init=False)
    _last_heartbeat: float = field(default=float("-inf"), init=False)

    def request_stop(self) -> None:
        """Ask the program to end at its next safe point."""
        self._signalled = True

    def heartbeat(self) -> None:
        """Show the wrapper that the program is alive and at work; cheap enough for every step of a loop."""
        now = time.monotonic()
        if self.rank > 0 or now - self._last_heartbeat < self.interval:
            return
        self._last_heartbeat = now
        with suppress(OSError):  # errors of the disk are reported where output is written
            (self.folder / HEARTBEAT_FILE).touch()

    def report_saved(self, amount: float) -> None:
        """Record the progress from which the next attempt continues, in any rising unit: graphs seen, records read."""
        if self.rank == 0:
            write_atomic(self.folder / SAVED_FILE, f"{amount!r}\n".encode())

    @property
    def stop_requested(self) -> bool:
        """Whether the program was asked to stop; cheap enough for every step of a loop."""
        self.heartbeat()
        now = time.monotonic()
        if self.rank == 0 and not self._stop_file_found and now - self._last_poll >= self.interval:
            self._last_poll = now
            self._stop_file_found = (self.folder / STOP_FILE).exists()
        return self._signalled or self._stop_file_found

    def check(self) -> None:
        """Raise `StopRequested` when the program was asked to stop."""
        if self.stop_requested:
            raise StopRequested

    def report_progress(self, *, force: bool = False, **values: Any) -> None:
        """Append ``values`` and the time to ``progress.jsonl``, at most once per interval unless ``force``."""
        self.heartbeat()
        now = time.monotonic()
        if self.rank > 0 or (not force and now - self._last_line < self.interval):
            return
        self._last_line = now
        line = json.dumps({"time": time.time(), **values}, allow_nan=False)
        path = self.folder / PROGRESS_FILE
        with storage_errors(path), open(path, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    # The names until 2026-11-30, for programs of other packages.
    beat, saved, stopping, progress = heartbeat, report_saved, stop_requested, report_progress


def run_program(spec_type: type[S], body: Callable[[S, Task], Any], argv: list[str] | None = None) -> int:
    """Run ``body`` on the spec named on the command line; convert its end to files and an exit code.

    Parameters
    ----------
    spec_type
        Dataclass the JSON file must fit.
    body
        Called with the spec and the `Task`. Returns the result record, or a pair of it and the `ExitCode` (a diverged
        training also has a result). Raises `StopRequested` after saving its state.
    argv
        Arguments; default those of the process.

    Returns
    -------
    int
        The exit code. ``result.json`` exists if and only if ``body`` returned; ``error.json`` if it raised.
        With several ranks, only rank 0 writes the first, and only the rank that failed first the second.
        An unexpected exception is written to ``error.json`` as ``PERMANENT`` with its traceback on stderr.
    """
    arguments = sys.argv[1:] if argv is None else argv
    task = Task(Path.cwd())

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        task.request_stop()

    previous = {number: signal.signal(number, on_signal) for number in _STOPS}
    try:
        if len(arguments) != 1:
            raise DataError("This program takes exactly one argument: the path of its JSON spec.")
        task.heartbeat()
        arm_from(task.folder)
        reach(FaultPoint.PROGRAM_STARTED)
        outcome = body(read_record(spec_type, Path(arguments[0])), task)
        result, code = outcome if isinstance(outcome, tuple) else (outcome, ExitCode.OK)
        reach(FaultPoint.PROGRAM_BEFORE_RESULT)
        if task.rank == 0:
            write_record(task.folder / RESULT_FILE, result)
        reach(FaultPoint.PROGRAM_RESULT)
    except StopRequested:
        return int(ExitCode.PREEMPTED)
    except (GFMError, OSError, MemoryError) as error:
        _write_error(task, error)
        if is_out_of_memory(error):
            return int(ExitCode.OUT_OF_MEMORY)
        retry = isinstance(error, _RETRYABLE) and not isinstance(error, _PERMANENT)
        return int(ExitCode.RETRYABLE if retry else ExitCode.PERMANENT)
    except Exception as error:  # the last resort of a program: after any error, the folder must record the end
        LOG.exception("unexpected error")  # a bug of the program: its traceback goes to the attempt's stderr
        _write_error(task, error)
        if is_out_of_memory(error):
            return int(ExitCode.OUT_OF_MEMORY)
        return int(ExitCode.RETRYABLE if is_device_failure(error) else ExitCode.PERMANENT)
    finally:
        for number, handler in previous.items():
            # the process ends now: a signal in its last moments would change its exit code
            signal.signal(number, signal.SIG_IGN if argv is None else handler)
    return int(code)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether ``error`` is out of memory, from Python, NumPy, or torch on CPU and accelerators.

    Torch raises a plain ``RuntimeError`` on CPUs, so this function examines its text.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error).lower() for text in _NO_MEMORY)


def is_device_failure(error: Exception) -> bool:
    """Return whether ``error`` is a failure of the accelerator; the same task may work on another node."""
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_DEVICE)


def _write_error(task: Task, error: Exception) -> None:
    """Write ``error.json``; of several ranks, only the first with an error of its own writes it.

    Only rank 0 reports the loss of another rank, since the lost rank may have reported the cause before its connections
    closed.
    """
    message = error.message if isinstance(error, GFMError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, GFMError) else None
    path, lost = task.folder / ERROR_FILE, isinstance(error, NodeError)
    if lost:
        time.sleep(LOST_SECONDS)
    if (task.rank > 0 and lost) or ((task.rank > 0 or lost) and path.exists()):
        sys.stderr.write(f"{message}\n")
        return
    try:
        table = error.table if isinstance(error, GFMError) else None
        write_record(path, ErrorRecord(type(error).__name__, message, hint, table))
    except (StorageError, OSError):  # the full disk itself is the error: the exit code still reports it
        sys.stderr.write(f"{message}\n")
