"""Reads the files in the folder of an attempt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gfm_pipeline.core.contracts.attempts.records import ERROR_FILE, ErrorRecord
from gfm_pipeline.core.contracts.task import RESULT_FILE, SAVED_FILE
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.records import read_record


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the program's result, or None."""
    try:
        data = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def read_error(folder: Path) -> ErrorRecord | None:
    """Return the program's error record, or None."""
    try:
        return read_record(ErrorRecord, folder / ERROR_FILE)
    except (FileNotFoundError, IntegrityError):
        return None


def read_saved(folder: Path) -> float | None:
    """Return the progress from which the next attempt can continue, or None."""
    try:
        return float((folder / SAVED_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
