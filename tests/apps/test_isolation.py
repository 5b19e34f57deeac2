"""Reading in a process of its own: whatever ends it costs a record or a file, which is named, and nothing else."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.child_process import POLL_SECONDS, ChildTimeouts
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.files.isolation import isolated
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits
from gfm_pipeline.core.contracts.options import FileOptions, ReaderOptions
from gfm_pipeline.core.contracts.readers import BUILT_IN, ReaderDescription
from gfm_pipeline.core.errors import StorageError

GOOD = ["1", "2", "3"]


def do(word: str) -> Frame:
    """Do what a library may do to the process that calls it with a bad file."""
    match word:
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "memory":
            np.ones(10**9)
        case "hang":
            time.sleep(1000)
        case "spin":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                pass
        case "damage":
            raise ValueError("damaged")
        case "trouble":
            raise StorageError("The disk is broken.", "Mend it.")
    return Frame(np.array([1]), np.zeros((1, 3)), energy=float(word))


class Words(FileReader):
    """A record per line; lines that begin with ! do what they say while the file is cut."""

    def frames(self, part: InputFile, options: ReaderOptions) -> Iterator[Parse]:
        with part.text() as lines:
            for line in map(str.strip, lines):
                if line.startswith("!"):
                    do(line[1:])
                yield partial(do, line)

    def length(self, part: InputFile, options: ReaderOptions) -> int | None:
        if "!count" in part.file.read_text():
            os.abort()
        return len(part.file.read_text().splitlines())


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Return what makes a source of files with the given lines."""
    monkeypatch.setitem(BUILT_IN, "words", ReaderDescription(FileOptions, "no:module", "lines"))

    def make(*files: list[str]) -> SourceSettings:
        paths = [tmp_path / f"{k}.txt" for k in range(len(files))]
        for path, lines in zip(paths, files, strict=True):
            path.write_text("".join(f"{line}\n" for line in lines))
        return SourceSettings("s", "words", tuple(map(str, paths)))

    return make


def children() -> set[int]:
    """Return the processes that this one has started: those of other tests' services among them."""
    return {process.pid for process in psutil.Process().children()}


def read(
    source: SourceSettings, n_shards: int = 1, seconds: float = 60.0
) -> tuple[list[float | None], list[BadRecord]]:
    reader, before = isolated(Words(), ReadLimits(1.0, seconds)), children()
    items = [item for shard in range(n_shards) for item in reader.read(source, shard, n_shards, 0)]
    assert children() <= before, "a child was left"
    return [i.energy for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, BadRecord)]


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("segfault", "ended its reader by SIGSEGV"),
        ("abort", "ended its reader by SIGABRT"),
        ("exit", "ended its reader: exit code 3"),
        ("memory", "unreadable: it needs more memory than a record may: Unable to allocate 7.45 GiB"),
        ("damage", "unreadable: damaged$"),
    ],
)
def test_a_record_that_ends_its_reader_costs_itself(source, word, reason, n_shards):
    given = source(["1", "2", word, "3"], ["4"])
    energies, bad = read(replace(given, files=given.files[:1]) if n_shards > 1 else given, n_shards)
    assert sorted(energies) == [1, 2, 3] + [4] * (n_shards == 1)
    (named,) = bad
    assert (named.file, named.index) == (given.files[0], 2)
    assert re.match(reason, named.reason)


@pytest.mark.parametrize("n_shards", [1, 2])
def test_what_ends_the_cutting_costs_the_rest_of_its_file(source, n_shards):
    given = source(["1", "2", "!segfault", "3"])
    energies, bad = read(given, n_shards)
    assert sorted(energies) == [1, 2]
    (named,) = bad
    assert (named.file, named.index) == (given.files[0], 2)
    assert "SIGSEGV" in named.reason
    assert named.reason.endswith("what follows it in the file is lost")


def test_after_some_deaths_a_file_is_left_and_the_next_is_read(source):
    given = source(["1"], ["2", *["abort"] * 10, "3"], GOOD)
    energies, bad = read(given)
    assert energies == [1, 2, 1, 2, 3]
    assert {b.file for b in bad} == {given.files[1]}
    assert "the rest of the file is lost" in bad[-1].reason
    assert [b.index for b in bad] == [1, 2, 3, 4]


@pytest.mark.parametrize("word", ["hang", "spin", "!hang"])
def test_what_takes_too_long_is_ended_and_named(source, word):
    given = source(["1", word, "2"], GOOD)
    energies, bad = read(given, seconds=1.0)
    assert energies == [1, 1, 2, 3]
    (named,) = bad
    assert (named.file, named.index) == (given.files[0], 1)
    assert named.reason.startswith("takes too long: ")


def test_counting_that_ends_badly_is_not_cheap(source):
    reader = isolated(Words(), ReadLimits())
    assert reader.count(source(GOOD)) == 3
    assert reader.count(source(["!count"])) is None


def test_trouble_of_the_storage_is_raised(source):
    with pytest.raises(StorageError, match="The disk is broken") as caught:
        read(source(["1", "trouble", "2"]))
    assert caught.value.hint == "Mend it."


def test_who_stops_early_or_is_stopped_leaves_no_process(source):
    given, before = source(["1", "hang"]), children()
    reader = isolated(Words(), ReadLimits())
    items = reader.read(given, 0, 1, 0)
    items.close()

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(isolated(Words(), ReadLimits(), stop).read(given, 0, 1, 0))
    assert children() <= before


def test_a_child_that_reads_is_waited_for_longer():
    def looks(place: list[int], read: list[int]) -> int:
        patience = ChildTimeouts(10 * POLL_SECONDS)
        for number in range(1000):
            if patience.ends(place[number % len(place)], read[number] if len(read) > 1 else read[0]):
                return number
        return 1000

    assert looks([0], [0]) < 15
    assert 90 < looks([0], list(range(1000))) < 110
    assert looks([0, 1], [0]) == 1000


def test_the_memory_of_a_child_counts_from_where_it_began(source):
    held = np.ones(200_000_000)  # 1.6 GB, more than the limit
    energies, bad = read(source(GOOD))
    assert (energies, bad, len(held)) == ([1, 2, 3], [], 200_000_000)


def test_files_of_a_reader_that_dies_at_once_are_all_named(source):
    given = source(["!abort"], ["!exit"], GOOD)
    energies, bad = read(given)
    assert energies == [1, 2, 3]
    assert [Path(b.file).name for b in bad] == ["0.txt", "1.txt"]
