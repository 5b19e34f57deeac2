"""Position of the reader of a shard, shared with another process, which can restart there without the failed part."""

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
    """What is not tried again, and why: records, what is cut out of a file behind a place, files from a record on."""

    records: dict[RecordPlace, str] = field(default_factory=dict)
    cuts: dict[RecordPlace, str] = field(default_factory=dict)
    files: dict[int, tuple[int, str]] = field(default_factory=dict)


class Cursor:
    """The place of one reader in the files of its shard.

    Parameters
    ----------
    first
        Records before this place are cut out of their files and not parsed.
    refused
        What is named as unusable without being tried.
    memory
        Room for the place; memory that processes share lets others see it.
    """

    def __init__(self, first: RecordPlace = BEGIN, refused: RecordRefused | None = None, memory: Any = None) -> None:
        self._first, self._refused = first, refused or RecordRefused()
        self._cells = memoryview(bytearray(24) if memory is None else memory).cast("q")

    @staticmethod
    def shared() -> mmap.mmap:
        """Return memory for the place that this process shares with those it forks."""
        return mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def file(self) -> int:
        """Position of the file among those of the shard."""
        return self._cells[FILE]

    @property
    def record(self) -> int:
        """Record of the file that is cut out or parsed."""
        return self._cells[RECORD]

    @property
    def parsing(self) -> bool:
        """Whether a record is being parsed, rather than cut out of its file."""
        return bool(self._cells[PARSING])

    @property
    def place(self) -> RecordPlace:
        """File and record."""
        return self.file, self.record

    @property
    def abandoned(self) -> bool:
        """Whether nothing more of this file is tried."""
        if not self._refused.files:
            return False
        found = self._refused.files.get(self.file)
        return found is not None and self.record >= found[0]

    def wants_file(self, file: int) -> bool:
        """Return whether the file, by its position in the shard, is not behind the place to begin at; go there."""
        self._cells[FILE], self._cells[RECORD], self._cells[PARSING] = file, 0, 0
        return file >= self._first[FILE]

    def wants(self, records: slice) -> bool:
        """Return whether the record the cursor is at is to be given."""
        record = self._cells[RECORD]
        return (self._cells[FILE], record) >= self._first and (mine(record, records) or self.abandoned)

    def advance(self) -> None:
        """Go to the next record of the file."""
        self._cells[RECORD] += 1

    def cutting(self, items: Iterator[T]) -> Iterator[T]:
        """Yield ``items``, known to be cutting a file while each is waited for.

        Raises
        ------
        RefusedError
            At the place at which this is not to be tried.
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
        """Call what parses the record.

        Raises
        ------
        RefusedError
            When this record is not to be tried.
        """
        if self._refused.records and (reason := self._refused.records.get(self.place)) is not None:
            raise RefusedError(reason)
        self._cells[PARSING] = 1
        return function()
