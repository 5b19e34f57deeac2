"""Results of programs as a journal holds them, filled in where a test does not care."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from gfm_pipeline.core.records import to_plain


def plain_result(kind: type, **given: Any) -> dict[str, Any]:
    """Return a ``kind`` as plain data with the fields ``given``; what has no default gets an empty value."""
    hints = get_type_hints(kind)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    filled = {name: _empty(hints[name]) for name in missing}
    return {**to_plain(kind(**filled)), **given}


def _empty(hint: Any) -> Any:
    origin = get_origin(hint)
    if origin is Union or type(None) in get_args(hint):
        return None
    kind = origin or hint
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{f.name: _empty(hints[f.name]) for f in fields(kind) if f.default is MISSING})
    return next(iter(kind)) if issubclass(kind, Enum) else kind()
