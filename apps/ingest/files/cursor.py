"""The position of a shard's reader, shared with another process that can restart after a failed part."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gfm_pipeline.apps.ingest.records import RefusedError, mine

T = TypeVar("T")
FILE, RECORD, PARSING = range(3)
RecordPlace = tuple[int, int]  # position among the files of a shard, record of that file
BEGIN: RecordPlace = (0, 0)


@dataclass
class RecordRefused:
    """Parts not to retry, with reasons: records, parts of a file after a position, files from a record on."""

    records: dict[RecordPlace, str] = field(default_factory=dict)
    cuts: dict[RecordPlace, str] = field(default_factory=dict)
    files: dict[int, tuple[int, str]] = field(default_factory=dict)


class Cursor:
    """The position of one reader in the files of its shard.

    Parameters
    ----------
    first
        Records before this position are cut out of their files but not parsed.
    refused
        Parts reported as unusable without a retry.
    memory
        Memory for the position; shared memory makes it visible to other processes.
    """

    def __init__(self, first: RecordPlace = BEGIN, refused: RecordRefused | None = None, memory: Any = None) -> None:
        self._first, self._refused = first, refused or RecordRefused()
        self._cells = memoryview(bytearray(24) if memory is None else memory).cast("q")

    @staticmethod
    def shared() -> mmap.mmap:
        """Return memory for the position, shared with forked processes."""
        return mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def file(self) -> int:
        """Position of the file among those of the shard."""
        return self._cells[FILE]

    @property
    def record(self) -> int:
        """Number of the current record in the file, which is cut out or parsed."""
        return self._cells[RECORD]

    @property
    def parsing(self) -> bool:
        """Whether the reader is parsing a record rather than cutting it out of its file."""
        return bool(self._cells[PARSING])

    @property
    def place(self) -> RecordPlace:
        """File and record."""
        return self.file, self.record

    @property
    def abandoned(self) -> bool:
        """Whether the rest of this file is skipped."""
        if not self._refused.files:
            return False
        found = self._refused.files.get(self.file)
        return found is not None and self.record >= found[0]

    def wants_file(self, file: int) -> bool:
        """Move to a file by its position in the shard; return whether it is at or after the starting position."""
        self._cells[FILE], self._cells[RECORD], self._cells[PARSING] = file, 0, 0
        return file >= self._first[FILE]

    def wants(self, records: slice) -> bool:
        """Return whether to yield the current record."""
        record = self._cells[RECORD]
        return (self._cells[FILE], record) >= self._first and (mine(record, records) or self.abandoned)

    def advance(self) -> None:
        """Move to the next record of the file."""
        self._cells[RECORD] += 1

    def cutting(self, items: Iterator[T]) -> Iterator[T]:
        """Yield ``items``; while it waits for each, the state is cutting.

        Raises
        ------
        RefusedError
            At a position that must not be retried.
        """
        while True:
            self._cells[PARSING] = 0
            if self._refused.files and self.abandoned:
                raise RefusedError(self._refused.files[self.file][1])
            if self._refused.cuts and (reason := self._refused.cuts.get(self.place)) is not None:
                raise RefusedError(reason)
            try:
                item = next(items)
            except StopIteration:
                return
            yield item

    def parse(self, function: Callable[[], T]) -> T:
        """Call the function that parses the record.

        Raises
        ------
        RefusedError
            When this record must not be retried.
        """
        if self._refused.records and (reason := self._refused.records.get(self.place)) is not None:
            raise RefusedError(reason)
        self._cells[PARSING] = 1
        return function()
