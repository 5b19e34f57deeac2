"""How an attempt ended, from what it left in its folder."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from gfm_pipeline.apps.contracts.task import ERROR_FILE, EXIT_FILE, RESULT_FILE, ErrorRecord, ExitCode, ExitRecord
from gfm_pipeline.campaign.events import Outcome
from gfm_pipeline.common.errors import IntegrityError, StorageError
from gfm_pipeline.common.records import read_record

_TAIL_BYTES = 4096


def classify(folder: Path) -> tuple[Outcome, str, float, dict[str, Any] | None]:
    """Return outcome, reason, wall seconds and result of the attempt that ran in ``folder``."""
    try:
        record = read_record(ExitRecord, folder / EXIT_FILE)
    except FileNotFoundError:
        return Outcome.PREEMPTED, "lost with its worker or driver", 0.0, None
    except IntegrityError as error:
        return Outcome.RETRYABLE, error.message, 0.0, None
    result = _result(folder)
    if record.timed_out:
        return Outcome.RETRYABLE, f"ran past its deadline ({record.seconds:.0f} s)", record.seconds, None
    if record.code < 0:
        name = signal.Signals(-record.code).name
        hint = ", perhaps out of memory" if record.code == -signal.SIGKILL else ""
        return Outcome.RETRYABLE, f"killed by {name}{hint}", record.seconds, None
    match record.code:
        case ExitCode.OK | ExitCode.DIVERGED if result is not None:
            outcome = Outcome.OK if record.code == ExitCode.OK else Outcome.DIVERGED
            return outcome, str(result.get("message") or ""), record.seconds, result
        case ExitCode.OK | ExitCode.DIVERGED:
            return Outcome.RETRYABLE, "ended well but left no result", record.seconds, None
        case ExitCode.PREEMPTED:
            return Outcome.PREEMPTED, "asked to stop; checkpoint saved", record.seconds, None
        case ExitCode.RETRYABLE | ExitCode.PERMANENT:
            return _failed(folder, record)
    return Outcome.PERMANENT, f"exit code {record.code}: {_last_line(folder / 'stderr.log')}", record.seconds, None


def _result(folder: Path) -> dict[str, Any] | None:
    try:
        data = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _failed(folder: Path, record: ExitRecord) -> tuple[Outcome, str, float, None]:
    outcome = Outcome.RETRYABLE if record.code == ExitCode.RETRYABLE else Outcome.PERMANENT
    try:
        error = read_record(ErrorRecord, folder / ERROR_FILE)
    except (FileNotFoundError, IntegrityError):
        return outcome, _last_line(folder / "stderr.log"), record.seconds, None
    if error.error == StorageError.__name__:
        outcome = Outcome.STORAGE
    reason = error.message if error.hint is None else f"{error.message} {error.hint}"
    return outcome, reason, record.seconds, None


def _last_line(path: Path) -> str:
    """Return the last non-empty line of a log, or a note that there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    return lines[-1].strip() if lines else f"nothing was written to {path.name}"
