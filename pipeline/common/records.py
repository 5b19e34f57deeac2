"""Frozen dataclasses to JSON and back, validated on the way in."""

from __future__ import annotations

import json
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from gfm_pipeline.common.errors import IntegrityError

T = TypeVar("T")


@lru_cache(maxsize=256)
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, cls))


def to_plain(record: Any) -> Any:
    """Return ``record`` (a dataclass) as JSON-ready dicts, lists and scalars."""
    return _adapter(cast(Hashable, type(record))).dump_python(record, mode="json")


def from_plain(cls: type[T], data: Any) -> T:
    """Build a ``cls`` from plain data; raises ``pydantic.ValidationError`` when it does not fit."""
    value: T = _adapter(cast(Hashable, cls)).validate_python(data)
    return value


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
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise IntegrityError(f"{path} is not a valid {cls.__name__}: {first}.") from error
