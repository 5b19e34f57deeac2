"""Reads foreign files in a separate process: a crash costs one record or file, which is named.

Libraries that read damaged files end their process (ADIOS2, HDF5, LMDB: a signal), fill its memory, or wait for ever.
So the reader runs in a forked child, which needs no imports, and sends records through a pipe. Its memory
(``RLIMIT_DATA``) and its time per record are limited. When it dies, its `Cursor` in shared memory has its position. A
new child begins there, after the received records, and reports the part that killed the last child instead of retrying
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from gfm_pipeline.apps.ingest.files.child_process import Child, ChildDiedError
from gfm_pipeline.apps.ingest.files.cursor import BEGIN, Cursor, RecordPlace, RecordRefused
from gfm_pipeline.apps.ingest.files.file_reader import FileReader
from gfm_pipeline.apps.ingest.files.record_batches import Packer, Unpacker, to_bytes
from gfm_pipeline.apps.ingest.records import PassedOver, Reader, Record
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits
from gfm_pipeline.core.errors import DataError

BATCH, BATCH_ATOMS, BATCH_SECONDS = 64, 8_192, 0.5  # limits of records sent together
SHARE_TO_COUNT = 3  # share of the limit of time: a number of records is optional
DEATHS = 4  # in one file; then the rest of the file is skipped


def isolated(reader: Reader, limits: ReadLimits, alive: Callable[[], None] = lambda: None) -> Reader:
    """Return an equivalent reader that reads files in a separate process.

    Parameters
    ----------
    reader
        The reader; if it is not a `FileReader` (a generator), it is returned unchanged.
    limits
        Of the process that reads.
    alive
        Called every half second during the wait for a record; its errors end the reading.
    """
    return Isolated(reader, limits, alive) if isinstance(reader, FileReader) else reader


@dataclass(frozen=True)
class Isolated:
    """A reader of files that works in child processes."""

    reader: FileReader
    limits: ReadLimits
    alive: Callable[[], None]

    def converted(self, source: SourceSettings) -> tuple[str, ...]:
        """Return the unit conversions by the reader itself, in words."""
        return self.reader.converted(source)

    def count(self, source: SourceSettings) -> int | None:
        """Return the number of records of the source; None if that is expensive, or counting fails."""
        limits = replace(self.limits, seconds=self.limits.seconds / SHARE_TO_COUNT)
        child = Child(lambda connection: connection.send(self.reader.count(source)), limits, Cursor.shared())
        with child:
            try:
                found: int | None = child.receive(self.alive)
            except ChildDiedError:
                return None  # reading will name the file
        return found

    def read(
        self,
        source: SourceSettings,
        shard: int,
        n_shards: int,
        seed: int,  # noqa: ARG002
    ) -> Iterator[Record | BadRecord | PassedOver]:
        """Yield the records of one shard; ``seed`` is not used.

        Raises
        ------
        DataError
            When the reading process dies outside of any file.
        """
        first, refused, deaths = BEGIN, RecordRefused(), dict[int, int]()
        while True:
            memory = Cursor.shared()
            cursor = Cursor(first, refused, memory)
            unpacker = Unpacker()
            work = _Serving(self.reader, source, shard, n_shards, cursor)
            with Child(work, self.limits, memory) as child:
                try:
                    while (batch := child.receive(self.alive)) is not None:
                        items, first = batch
                        yield from unpacker.unpack(items)
                    return
                except ChildDiedError as death:
                    progress = Cursor(memory=memory)
                    deaths[progress.file] = deaths.get(progress.file, 0) + 1
                    if deaths[progress.file] > DEATHS + 1:
                        raise DataError(f"Reading source {source.name} {death}.") from None
                    _refuse(refused, progress, first, deaths[progress.file], death)


def _refuse(refused: RecordRefused, cursor: Cursor, first: RecordPlace, deaths: int, death: ChildDiedError) -> None:
    """Record the part not to retry, after a child died at ``cursor``."""
    if deaths >= DEATHS or death.in_time:
        received = first[1] if first[0] == cursor.file else 0
        begin = received if deaths > DEATHS else cursor.record  # a child must not die at the same position twice
        refused.files[cursor.file] = (begin, f"{death}; the rest of the file is lost")
    elif cursor.parsing:
        refused.records[cursor.place] = str(death)
    else:
        refused.cuts[cursor.place] = f"{death}; what follows it in the file is lost"


@dataclass(frozen=True)
class _Serving:
    """The work of a child: it sends records with the position after the last of them, and None at the end."""

    reader: FileReader
    source: SourceSettings
    shard: int
    n_shards: int
    cursor: Cursor

    def __call__(self, connection: Connection) -> None:
        batch: list[Record | BadRecord | PassedOver] = []
        atoms, sent, packer = 0, time.monotonic(), Packer()
        for item in self.reader.read_from(self.source, self.shard, self.n_shards, self.cursor):
            batch.append(item)
            atoms += item.numbers.size if isinstance(item, Record) else 0
            if len(batch) < BATCH and atoms < BATCH_ATOMS and time.monotonic() - sent < BATCH_SECONDS:
                continue
            behind = (self.cursor.file, self.cursor.record + 1)
            connection.send_bytes(to_bytes((packer.pack(batch), behind)))
            batch, atoms, sent = [], 0, time.monotonic()
        connection.send_bytes(to_bytes((packer.pack(batch), self.cursor.place)))
        connection.send(None)
