"""Limits the expansion of compressed files: a few kilobytes can hold terabytes of zeros."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any, cast

MOST = 200  # times the size of the file on disk; texts of structures expand three to ten times
ALWAYS = 1 << 30  # bytes that any file may expand to
BUFFER = 1 << 18


class ExpansionError(ValueError):
    """A compressed file that expands more than real data."""


def bounded(stream: IO[bytes], file: Path) -> IO[bytes]:
    """Return a stream with the same bytes that fails when they are far more than those of ``file``.

    Raises
    ------
    ExpansionError
        During reading, beyond `ALWAYS` bytes and `MOST` times the size of the file.
    """
    return cast("IO[bytes]", io.BufferedReader(_Bounded(stream, most_of(file)), BUFFER))


def most_of(file: Path) -> int:
    """Return the largest allowed number of bytes from a compressed file."""
    return max(ALWAYS, MOST * file.stat().st_size)


class _Bounded(io.RawIOBase):
    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most, self._given = stream, most, 0

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        data = self._stream.read(len(buffer))
        self._given += len(data)
        if self._given > self._most:
            raise ExpansionError(f"it expands to more than {self._most:,} bytes")
        buffer[: len(data)] = data
        return len(data)
