"""Progress and errors of a program, read from the folder of its attempt."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from gfm_pipeline.core.contracts.task import ERROR_FILE, PROGRESS_FILE, ErrorRecord
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.records import read_record

_TAIL_BYTES = 8192


def newest_progress(attempt: Path) -> dict[str, Any]:
    """Return the newest value of every key in the last lines of progress; empty while there are none."""
    try:
        with open(attempt / PROGRESS_FILE, "rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL_BYTES))
            lines = stream.read().splitlines()
    except OSError:
        return {}
    found: dict[str, Any] = {}
    for line in lines:
        with suppress(ValueError, TypeError):  # truncated at the front, or being written
            found |= json.loads(line)
    return found


def error_table(attempt: Path) -> str:
    """Return the table that a failed program wrote in addition to its sentence, as lines of text, or ''."""
    try:
        return read_record(ErrorRecord, attempt / ERROR_FILE).table or ""
    except (OSError, IntegrityError):  # no error file
        return ""
