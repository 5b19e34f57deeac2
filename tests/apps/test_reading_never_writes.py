"""Reading leaves what it reads, and the folder it lies in, as they are."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from ase.db import connect
from ase.io import write
from ingest_cases import assert_labels, labelled, only_shard

from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("create table photos(a)")
    database.close()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nothing_in_it(path: Path) -> None:
    """Write an SQLite file without any table."""
    with sqlite3.connect(path) as database:
        database.execute("pragma user_version = 3")
    database.close()


def old(path: Path) -> None:
    """Write an ASE database without the table of its version."""
    good(path)
    with sqlite3.connect(path) as database:
        database.execute("drop table information")
    database.close()


def good(path: Path) -> None:
    with connect(path, type="db") as database:
        for atoms in labelled(6):
            database.write(atoms)


def in_wal_mode(path: Path) -> None:
    """Write a database whose reader would make files beside it."""
    good(path)
    database = sqlite3.connect(path)
    database.execute("pragma journal_mode = wal")
    database.close()


def of_lmdb(path: Path) -> None:
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", b"b")


def json_of_ase(path: Path) -> None:
    write(path, labelled(3), format="json")


CASES: dict[str, tuple[Callable[[Path], None], int]] = {
    "photos.db": (foreign, 0),
    "empty.db": (empty, 0),
    "tables.db": (nothing_in_it, 0),
    "old.db": (old, 0),
    "good.db": (good, 6),
    "good": (good, 6),  # found by its first bytes
    "wal.db": (in_wal_mode, 6),
    "foreign.aselmdb": (of_lmdb, 0),
    "frames.json": (json_of_ase, 3),
}


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {p.name: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_written_by_preview_or_reading(tmp_path: Path, name: str) -> None:
    make, n = CASES[name]
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder / name)
    before = contents(folder)
    source = SourceSettings("s", "ase", (str(folder / name),))
    seen = preview(PreviewSpec(source, 0))
    assert seen.usable == n
    shard, bad = only_shard(tmp_path / "out", source)
    assert len(shard) == n
    assert {item.file for item in bad} == (set() if n else {str(folder / name)})
    assert contents(folder) == before
    if n == 6:
        assert_labels(shard, labelled(6))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (empty, "The file is empty"),
        (foreign, "without the table systems"),
        (lambda path: path.write_text("name,energy"), "It is not an SQLite file."),
    ],
)
def test_what_is_no_database_of_ase_is_named(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "a.db")
    _, (bad,) = only_shard(tmp_path / "out", SourceSettings("s", "ase", (str(tmp_path / "a.db"),)))
    assert words in bad.reason


def test_a_database_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    in_wal_mode(path)
    writer = sqlite3.connect(path)
    try:
        writer.execute("delete from systems where id = 1")
        writer.commit()
        _, (bad,) = only_shard(tmp_path / "out", SourceSettings("s", "ase", (str(path),)))
        assert "It is being written, or was not closed." in bad.reason
    finally:
        writer.close()  # puts what is in the log into the file
    shard, _ = only_shard(tmp_path / "again", SourceSettings("s", "ase", (str(path),)))
    assert len(shard) == 5
