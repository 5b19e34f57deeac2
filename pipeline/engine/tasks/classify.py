"""Classifies the end of an attempt, from the files in its folder and from Parsl's report."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gfm_pipeline.campaign.events import AttemptOutcome, Cause
from gfm_pipeline.core.contracts.attempts.energy import AttemptEnergy, of_nodes, read_energy
from gfm_pipeline.core.contracts.attempts.files import read_error, read_result, read_saved
from gfm_pipeline.core.contracts.attempts.launch import LAUNCH_FILE
from gfm_pipeline.core.contracts.attempts.records import WRAP_FILE, AttemptReport, read_first_failure
from gfm_pipeline.core.contracts.task import (
    CHAOS_FILE,
    EXIT_FILE,
    ErrorRecord,
    ExitCode,
    ExitRecord,
)
from gfm_pipeline.core.errors import GFMError, IntegrityError, StorageError
from gfm_pipeline.core.records import read_record

NO_RESULT = "ended well but left no result"
_TAIL_BYTES = 4096
_LOST = {  # Parsl's exceptions by name
    "WorkerLost": Cause.WORKER_LOST,
    "ManagerLost": Cause.NODE_FAILURE,
    "BadStateException": Cause.LAUNCHER_LOST,
    "TooManyJobFailuresError": Cause.LAUNCHER_LOST,
    "InterchangeLost": Cause.LAUNCHER_LOST,
    "BlockLost": Cause.BLOCK_LOST,
    StorageError.__name__: Cause.STORAGE,
}
_OUTCOMES = {
    Cause.FINISHED: AttemptOutcome.OK,
    Cause.DIVERGED: AttemptOutcome.DIVERGED,
    Cause.STOPPED: AttemptOutcome.PREEMPTED,
    Cause.WALL_TIME: AttemptOutcome.PREEMPTED,
    Cause.DRIVER_LOST: AttemptOutcome.PREEMPTED,
    Cause.LAUNCHER_LOST: AttemptOutcome.PREEMPTED,
    Cause.BLOCK_LOST: AttemptOutcome.PREEMPTED,
    Cause.STORAGE: AttemptOutcome.STORAGE,
    Cause.USER_ERROR: AttemptOutcome.PERMANENT,
    Cause.PROGRAM_ERROR: AttemptOutcome.PERMANENT,
    Cause.CHAOS: AttemptOutcome.PREEMPTED,
}


def _family(error: type[Exception]) -> set[str]:
    return {error.__name__}.union(*map(_family, error.__subclasses__()))


# Names of exceptions that programs raise on purpose, and of the operating system's errors for a wrong path.
_FORESEEN = _family(GFMError) | {"FileNotFoundError", "NotADirectoryError", "IsADirectoryError"}
_CHAOTIC = {  # ends that chaos may have caused
    Cause.STORAGE,
    Cause.OUT_OF_MEMORY,
    Cause.WORKER_LOST,
    Cause.NODE_FAILURE,
    Cause.KILLED,
    Cause.SILENT,
    Cause.TROUBLE,
}


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended."""

    cause: Cause
    reason: str
    seconds: float = 0.0
    result: dict[str, Any] | None = None
    saved: float | None = None
    host: str = ""
    energy: AttemptEnergy | None = None

    @property
    def left_no_files(self) -> bool:
        """Whether the attempt ended well, but its result is missing."""
        return self.reason == NO_RESULT

    @property
    def outcome(self) -> AttemptOutcome:
        """The kind of end: a result, a failure, or neither."""
        return _OUTCOMES.get(self.cause, AttemptOutcome.RETRYABLE)


def classify(folder: Path, trouble: str | None = None, report: AttemptReport | None = None) -> AttemptEnd:
    """Return how the attempt that ran in ``folder`` ended.

    The attempt's files take precedence: a task that finished just before the loss of its worker has finished.

    Parameters
    ----------
    folder
        The attempt's.
    trouble
        ``Class: message`` of the exception in Parsl's future; None: there is no exception, or no future
        because the driver died.
    report
        The report in Parsl's future: used if a file is not visible (yet).
    """
    ended = _classify(folder, trouble, report)
    if ended.cause in _CHAOTIC:
        with suppress(OSError):
            return replace(ended, cause=Cause.CHAOS, reason=(folder / CHAOS_FILE).read_text(encoding="utf-8"))
    return ended


def _exit(folder: Path, report: AttemptReport | None) -> ExitRecord | None:
    try:
        return read_record(ExitRecord, folder / EXIT_FILE)
    except FileNotFoundError:
        return None if report is None else report.exit


def _classify(folder: Path, trouble: str | None, report: AttemptReport | None) -> AttemptEnd:
    saved = read_saved(folder)
    if saved is None and report is not None:
        saved = report.saved
    try:
        record = _exit(folder, report)
    except IntegrityError as error:
        return AttemptEnd(Cause.TROUBLE, error.message, saved=saved)
    if record is None:
        left = read_energy(folder)
        energy = of_nodes(left, len(left))
        if trouble is None:
            return AttemptEnd(Cause.DRIVER_LOST, "lost with its driver", saved=saved, energy=energy)
        name, _, text = trouble.partition(": ")
        cause = _LOST.get(name, Cause.TROUBLE)
        return AttemptEnd(cause, text if cause is Cause.STORAGE else trouble, saved=saved, energy=energy)
    error_record = read_error(folder) if record.code else None
    if error_record is None and report is not None:
        error_record = report.error
    if error_record is None:
        error_record = ErrorRecord("", _last_line(folder / "stderr.log") if record.code else "")
    cause, reason = _cause(folder, record, error_record)
    result = None
    if cause in (Cause.FINISHED, Cause.DIVERGED):
        result = read_result(folder) or (None if report is None else report.result)
    if result is not None:
        reason = str(result.get("message") or "")
    elif cause in (Cause.FINISHED, Cause.DIVERGED):
        cause, reason = Cause.TROUBLE, NO_RESULT
    return AttemptEnd(cause, reason, record.seconds, result, saved, record.host, record.energy)


def _cause(folder: Path, record: ExitRecord, error_record: ErrorRecord) -> tuple[Cause, str]:
    code = record.code
    if code in (ExitCode.OK, ExitCode.DIVERGED):
        return (Cause.FINISHED if code == ExitCode.OK else Cause.DIVERGED), ""
    if record.silent:
        return Cause.SILENT, "showed no life and was killed"
    if record.timed_out and (code < 0 or code == ExitCode.PREEMPTED):
        how = "its checkpoint is saved" if code == ExitCode.PREEMPTED else "it had to be killed"
        return Cause.WALL_TIME, f"ran to its deadline ({record.seconds:.0f} s); {how}"
    if code == ExitCode.PREEMPTED:
        return Cause.STOPPED, "asked to stop; checkpoint saved"
    if code < 0:
        return _killed(record)
    if code == ExitCode.OUT_OF_MEMORY:
        return Cause.OUT_OF_MEMORY, error_record.message
    if code == ExitCode.RETRYABLE:
        return (Cause.STORAGE if error_record.error == StorageError.__name__ else Cause.TROUBLE), _sentence(
            error_record
        )
    if code == ExitCode.PERMANENT:
        return (Cause.USER_ERROR if error_record.error in _FORESEEN else Cause.PROGRAM_ERROR), _sentence(error_record)
    reason = f"exit code {code}: {_last_line(folder / 'stderr.log')}"
    launched = (folder / LAUNCH_FILE).exists() and not (folder / WRAP_FILE).exists()  # by its own launch line
    if launched and read_first_failure(folder) is None:
        return Cause.TROUBLE, f"its launch line ended with {reason}"  # no rank reported a failure
    return Cause.PROGRAM_ERROR, reason


def _killed(record: ExitRecord) -> tuple[Cause, str]:
    try:
        name = signal.Signals(-record.code).name
    except ValueError:
        name = f"signal {-record.code}"
    if record.stopped:
        return Cause.STOPPED, f"asked to stop; ended by {name}"
    if record.code == -signal.SIGKILL and record.out_of_memory is not False:
        return Cause.OUT_OF_MEMORY, f"killed by {name}{'' if record.out_of_memory else ', perhaps'}: out of memory"
    return Cause.KILLED, f"killed by {name}"


def _sentence(error: ErrorRecord) -> str:
    return error.message if error.hint is None else f"{error.message} {error.hint}"


def _last_line(path: Path) -> str:
    """Return the last non-empty line of a log, or a note about its absence."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    return lines[-1].strip() if lines else f"nothing was written to {path.name}"
