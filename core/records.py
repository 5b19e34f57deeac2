"""Frozen dataclasses to JSON and back, validated on the way in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gfm_pipeline.core.errors import IntegrityError

T = TypeVar("T")


def to_plain(record: Any) -> Any:
    """Return ``record`` (a dataclass) as JSON-ready dicts, lists and scalars."""
    return _with_lists(msgspec.to_builtins(record, str_keys=True))


def _with_lists(value: Any) -> Any:
    """Return plain data with lists for tuples, as if read back from JSON."""
    if isinstance(value, dict):
        return {key: _with_lists(entry) for key, entry in value.items()}
    return [_with_lists(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def from_plain(cls: type[T], data: Any) -> T:
    """Build a ``cls`` from plain data; raises ``msgspec.ValidationError`` when it does not fit."""
    return msgspec.convert(data, cls, str_keys=True)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of plain data: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def read_record(cls: type[T], path: Path) -> T:
    """Read a ``cls`` from a JSON file.

    Raises
    ------
    IntegrityError
        When the file is not JSON or does not fit ``cls``.
    """
    try:
        return from_plain(cls, json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        first = str(error).splitlines()[0]
        raise IntegrityError(f"{path} is not a valid {cls.__name__}: {first}.") from error
