"""ASE databases in SQLite, opened without any writing: no table, no journal, no index, no lock.

The layout: https://ase-lib.org/ase/db/db.html. ASE itself creates its tables in any SQLite file that it opens, even an
empty one. This module opens a file as immutable (https://www.sqlite.org/uri.html, ``immutable``), so that SQLite
creates no files next to it either. A file that a program has not finished writing is recognised and not read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ase.db.sqlite import SQLite3Database

from gfm_pipeline.apps.ingest.files.file_reader import Frame, Parse
from gfm_pipeline.apps.ingest.labels.known_keys import unit_statements
from gfm_pipeline.apps.ingest.readers.ase.atoms import atoms_frame
from gfm_pipeline.core.errors import DataError

_MAGIC = b"SQLite format 3\0"
_HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # a finished journal begins with zeros


def is_sqlite(path: Path) -> bool:
    """Return whether a file begins as SQLite's do."""
    with open(path, "rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


class _ReadOnly(SQLite3Database):  # type: ignore[misc]
    """ASE's database on a connection that cannot write."""

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{Path(self.filename).absolute().as_uri()}?mode=ro&immutable=1", uri=True)


class AseSqlite:
    """One database, open for reading.

    Raises
    ------
    DataError
        When the file is empty, is not an SQLite file, holds no table of ASE, or is being written.
    """

    def __init__(self, path: Path) -> None:
        if not path.stat().st_size:
            raise DataError("The file is empty.")
        if not is_sqlite(path):
            raise DataError("It is not an SQLite file.", "Name its format by the reader's option format.")
        if _unfinished(path):
            raise DataError(
                "It is being written, or was not closed.",
                f"Close the program that writes it, or run: sqlite3 {path.name} 'pragma wal_checkpoint(truncate)'.",
            )
        self._database = _ReadOnly(str(path))
        self._stated: dict[str, str] = {}

    def __enter__(self) -> AseSqlite:
        self._database.__enter__()
        try:
            known = "SELECT COUNT(*) FROM sqlite_master WHERE type='table' AND name='systems'"
            if not self._database.connection.execute(known).fetchone()[0]:
                raise DataError("It is an SQLite file without the table systems, so no database of ASE.")
        except BaseException:  # any exception: the file must be closed
            self._database.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._database.connection.close()
        self._database.connection = None

    def __len__(self) -> int:
        return int(self._database.count())

    def frames(self) -> Iterator[Parse]:
        """Yield the rows in the order of their numbers."""
        self._stated = unit_statements(self._database.metadata)
        for (number,) in self._database.connection.execute("SELECT id FROM systems ORDER BY id").fetchall():
            yield partial(self._frame, int(number))

    def _frame(self, number: int) -> Frame:
        row: Any = self._database.get(id=number)
        return atoms_frame(row.toatoms(), {**self._stated, **row.data, **row.key_value_pairs})


def _unfinished(path: Path) -> bool:
    """Return whether a journal or a write-ahead log next to the file holds changes."""
    journal, log = (path.with_name(path.name + end) for end in ("-journal", "-wal"))
    if log.is_file() and log.stat().st_size:
        return True
    if not journal.is_file():
        return False
    with open(journal, "rb") as stream:
        return stream.read(len(_HOT_JOURNAL)) == _HOT_JOURNAL
