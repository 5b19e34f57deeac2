"""Reads foreign files in a separate process: a crash costs a record or a file, which is named.

Libraries that read damaged files end their process (ADIOS2, HDF5, LMDB: a signal), fill its memory, or wait for ever.
So the reader runs in a forked child, which imports nothing again, and sends records through a pipe. It may take
so much memory (``RLIMIT_DATA``) and so long for a record. When it dies, its `Cursor`, in shared memory, says where it
was: a new child begins there, behind what was received, and names what killed the last one instead of trying it.
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

BATCH, BATCH_ATOMS, BATCH_SECONDS = 64, 8_192, 0.5  # records are sent together up to these
SHARE_TO_COUNT = 3  # of the limit of time: a number of records is nice to have
DEATHS = 4  # in one file; what is left of it then is not tried


def isolated(reader: Reader, limits: ReadLimits, alive: Callable[[], None] = lambda: None) -> Reader:
    """Return a reader that gives the same, and reads files in a process of its own.

    Parameters
    ----------
    reader
        One that is not a `FileReader` (a generator) is returned as it is.
    limits
        Of the process that reads.
    alive
        Called every half second while a record is waited for; what it raises ends the reading.
    """
    return Isolated(reader, limits, alive) if isinstance(reader, FileReader) else reader


@dataclass(frozen=True)
class Isolated:
    """A reader of files whose work is done by children."""

    reader: FileReader
    limits: ReadLimits
    alive: Callable[[], None]

    def converted(self, source: SourceSettings) -> tuple[str, ...]:
        """Return the unit conversions the reader itself does, in words."""
        return self.reader.converted(source)

    def count(self, source: SourceSettings) -> int | None:
        """Return the number of records of the source; None when that is not cheap to say, or counting ends badly."""
        limits = replace(self.limits, seconds=self.limits.seconds / SHARE_TO_COUNT)
        child = Child(lambda connection: connection.send(self.reader.count(source)), limits, Cursor.shared())
        with child:
            try:
                found: int | None = child.receive(self.alive)
            except ChildDiedError:
                return None  # reading names the file
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
            When the process that reads dies outside of any file.
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
    """Note what is not to be tried again, after a child died at ``cursor``."""
    if deaths >= DEATHS or death.in_time:
        received = first[1] if first[0] == cursor.file else 0
        begin = received if deaths > DEATHS else cursor.record  # it may not die at the same place twice
        refused.files[cursor.file] = (begin, f"{death}; the rest of the file is lost")
    elif cursor.parsing:
        refused.records[cursor.place] = str(death)
    else:
        refused.cuts[cursor.place] = f"{death}; what follows it in the file is lost"


@dataclass(frozen=True)
class _Serving:
    """What a child does: it sends records, and with them the place behind the last of them; at the end None."""

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
