"""Pipes, sockets and devices: never opened as data, because reading may never end."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def special_kind(path: Path) -> str | None:
    """Return the kind of a special file, following links; None for files, folders and missing paths."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return next((name for test, name in _KINDS if test(mode)), None)


def special_within(path: Path) -> tuple[Path, str] | None:
    """Return path and kind of the first special file at or below a path; None when there is none."""
    return next(((found, kind) for found in _below(path) if (kind := special_kind(found)) is not None), None)


def _below(path: Path) -> Iterator[Path]:
    yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)
