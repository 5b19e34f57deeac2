"""The campaign's only source of truth: an append-only file with one JSON event per line, each with a CRC.

A plain file, because SQLite and ``flock`` are unreliable on Lustre, GPFS and NFS. Each line reads
``{"crc":"<crc32 of the rest>","n":<sequence>,"t":<Unix time>,"kind":...,"data":{...}}``. One writer (the
driver, under the campaign's lock); any number of readers, who never block it.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pydantic_core import from_json

from gfm_pipeline.core.clock import MACHINE, Clock
from gfm_pipeline.core.errors import IntegrityError, StorageError
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.core.publish import fsync_dir, storage_errors
from gfm_pipeline.core.records import canonical_json
from gfm_pipeline.core.special_files import special_kind

SCHEMA_VERSION = 1
_PREFIX = b'{"crc":"'
_LATEST = 32_503_680_000.0  # the year 3000
_HUGE = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{300}")  # numbers that may exceed a double
_BODY = len(_PREFIX) + 8 + len(b'",')


@dataclass(frozen=True)
class Entry:
    """One journalled event: sequence number from 0, Unix time, kind and plain data."""

    n: int
    t: float
    kind: str
    data: dict[str, Any]


def encode(entry: Entry) -> bytes:
    """Return the line of an entry, newline included."""
    body = canonical_json({"n": entry.n, "t": round(entry.t, 3), "kind": entry.kind, "data": entry.data}).encode()
    return b'%b%08x",%b\n' % (_PREFIX, zlib.crc32(body), body[1:])


def decode(line: bytes) -> Entry:
    """Return the entry of a line without its newline; raises ValueError when it is damaged."""
    body = b"{" + line[_BODY:]
    if line[:_BODY] != b'%b%08x",' % (_PREFIX, zlib.crc32(body)):
        raise ValueError("its checksum does not match")
    raw = from_json(body, allow_inf_nan=False)
    entry = Entry(raw["n"], raw["t"], raw["kind"], raw["data"])
    if not (isinstance(entry.n, int) and isinstance(entry.kind, str) and isinstance(entry.data, dict)):
        raise ValueError("it is not an event with a number, a kind and data")
    if not isinstance(entry.t, int | float) or not 0 <= entry.t < _LATEST:
        raise ValueError(f"its time, {entry.t!r}, is none of this millennium")
    if _HUGE.search(body) is not None and not _is_finite(entry.data):
        raise ValueError("it holds a number that is not finite")
    return entry


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def read(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal; a torn last line (no newline yet) is left out.

    Raises
    ------
    IntegrityError
        With the line number, when a finished line is damaged or out of sequence; or when the file cannot be read.
    """
    hint = "Mend its permissions or its disk, or restore it from a backup."
    if (kind := special_kind(path)) is not None:  # opening it may wait for ever
        raise IntegrityError(f"{path} is {kind} and no journal.", hint)
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    entry = decode(line[:-1])
                except (ValueError, KeyError, TypeError) as error:
                    raise IntegrityError(
                        f"{path}:{number}: this event is damaged ({error}).",
                        "Restore the file from a backup; the campaign cannot be trusted past this line.",
                    ) from None
                if entry.n != number - 1:
                    raise IntegrityError(
                        f"{path}:{number}: event {entry.n} stands where {number - 1} belongs.",
                        "Lines were removed or added; restore the file from a backup.",
                    )
                yield entry
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}.", hint) from error


class Journal:
    """The writing end; use as a context manager, under the campaign's lock.

    Parameters
    ----------
    path
        The file.
    guard
        Called before every write; raises when the lock is lost.
    clock
        Stamps the events.
    durable
        Whether events are synced to the disk; other events may be lost in a crash of the machine, but not of the
        process.
    """

    def __init__(
        self,
        path: Path,
        guard: Callable[[], None] | None = None,
        clock: Clock = MACHINE,
        *,
        durable: bool = True,
    ) -> None:
        self.path = path
        self._clock, self._durable = clock, durable
        self._guard = guard
        self._refused: StorageError | OSError | None = None
        self._stream: IO[bytes] | None = None
        self._next = 0
        self._together = False

    def __enter__(self) -> Journal:
        """Open for appending, after removing a torn last line."""
        with storage_errors(self.path):
            self.path.touch()
            self._next = sum(1 for _ in read(self.path))
            self._stream = open(self.path, "r+b", buffering=0)
            content_end = self._whole_length(self._stream)
            self._stream.truncate(content_end)
            self._stream.seek(content_end)
            fsync_dir(self.path.parent)
        reach(FaultPoint.JOURNAL_OPENED)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    @staticmethod
    def _whole_length(stream: IO[bytes]) -> int:
        """Return the offset just after the last newline."""
        position = stream.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 65536)
            stream.seek(start)
            found = stream.read(position - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
        return 0

    def append(self, kind: str, data: dict[str, Any]) -> Entry:
        """Write one event and make it durable before returning."""
        if self._stream is None:
            raise RuntimeError("the journal is not open")
        if self._refused is not None:
            raise self._refused
        if self._guard is not None:
            self._guard()
        entry = Entry(self._next, round(self._clock.time(), 3), kind, data)
        reach(FaultPoint.JOURNAL_BEFORE_WRITE)
        try:
            with storage_errors(self.path):
                self._write(self._stream.fileno(), encode(entry))
        except (StorageError, OSError) as error:
            # A part of the line may be on disk. Nothing may follow it: the next open removes it.
            self._refused = error
            raise
        self._next += 1
        return entry

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make all events of the block durable by one sync at its end; no action may depend on them earlier.

        Raises
        ------
        StorageError
            When the disk refuses.
        """
        first = self._next
        self._together = True
        try:
            yield
        finally:
            self._together = False
            if self._next > first and self._refused is None and self._stream is not None:
                try:
                    with storage_errors(self.path):
                        self._sync(self._stream.fileno())
                except (StorageError, OSError) as error:
                    self._refused = error
                    raise

    def _write(self, descriptor: int, line: bytes) -> None:
        while line:
            line = line[os.write(descriptor, line) :]
        if not self._together:
            self._sync(descriptor)

    def _sync(self, descriptor: int) -> None:
        if not self._durable:
            return
        reach(FaultPoint.JOURNAL_BEFORE_SYNC)
        os.fsync(descriptor)
        reach(FaultPoint.JOURNAL_AFTER_SYNC)
