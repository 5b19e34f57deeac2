"""What must hold for every reader of files. A reader's test class inherits `Conformance` and says what to read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import PassedOver, Record
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.core.contracts.sources import validate_options

N_RECORDS = 6


class Expected:
    """Structures with labels, made here and written by each test in its own format; eV and Angstrom."""

    def __init__(self, periodic: bool = True, seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        shift = np.arange(N_RECORDS)[:, None, None]
        base = np.array([[0.0, 0, 0], [2.2, 0.1, 0], [0.2, 2.4, 0.3], [2.1, 2.2, 2.5]])
        self.numbers = np.array([8, 1, 1, 6])
        self.pos: NDArray[np.float64] = base + rng.uniform(-0.2, 0.2, (N_RECORDS, 4, 3)) + 0.01 * shift
        self.forces: NDArray[np.float64] = rng.normal(size=(N_RECORDS, 4, 3))
        self.energy: NDArray[np.float64] = -100.0 - rng.uniform(size=N_RECORDS)
        self.cell = np.array([[6.0, 0, 0], [0.5, 7.0, 0], [0, 0.25, 8.0]]) if periodic else np.zeros((3, 3))
        self.pbc = np.full(3, periodic)


Item = Record | BadRecord | PassedOver


def read_all(source: SourceSettings, n_shards: int = 1) -> list[Item]:
    reader = get_reader(source.reader)
    return [item for shard in range(n_shards) for item in reader.read(source, shard, n_shards, 0)]


def good(items: list[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def bad(items: list[Item]) -> list[BadRecord]:
    return [item for item in items if isinstance(item, BadRecord)]


def place(item: Item) -> tuple[str, int]:
    return item.file, item.index


def content(item: Item) -> Any:
    if not isinstance(item, Record):
        return item
    arrays = [item.numbers, item.pos, item.forces, item.cell, item.pbc]
    return place(item), item.group, item.energy, [None if a is None else np.asarray(a).tolist() for a in arrays]


class Conformance(ABC):
    """Inherit, and give `reader` and `write`; the rest says what the format allows.

    Where one record of a file can be damaged without the others, add ``spoil(path, index)``, which does that.

    Attributes
    ----------
    reader, options
        The reader and its options.
    periodic, forces
        Whether the format holds cells and forces.
    in_archives
        The format can be read compressed and from archives.
    folder
        A source is a folder.
    counts
        The reader says how many records there are without reading them.
    tolerance
        Of the values the format holds.
    """

    reader: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    periodic: ClassVar[bool] = True
    forces: ClassVar[bool] = True
    in_archives: ClassVar[bool] = False
    folder: ClassVar[bool] = False
    counts: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-7

    def __init_subclass__(cls) -> None:
        """Leave out the tests of what the format does not offer."""
        for wanted, names in (
            (hasattr(cls, "spoil"), ["test_a_broken_record_costs_only_itself"]),
            (cls.in_archives, ["test_compressed_is_the_same", "test_members_of_archives_are_the_same"]),
            (not cls.in_archives and not cls.folder, ["test_files_on_disk_are_asked_for"]),
            (not cls.folder, ["test_an_empty_file_is_named", "test_a_folder_or_a_file_of_bytes_costs_only_itself"]),
        ):
            for name in names:
                setattr(cls, name, getattr(Conformance, name) if wanted else None)

    @abstractmethod
    def write(self, folder: Path, expected: Expected) -> Path:
        """Write the records into a new file or folder inside ``folder`` and return its path."""

    def cut(self, path: Path) -> None:
        """Truncate a file."""
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * 0.6)])

    @pytest.fixture
    def expected(self) -> Expected:
        return Expected(self.periodic)

    @pytest.fixture
    def path(self, tmp_path: Path, expected: Expected) -> Path:
        return self.write(tmp_path, expected)

    def source(self, *paths: Path, **settings: Any) -> SourceSettings:
        options = validate_options(self.reader, {**self.options, **settings.pop("options", {})})
        return SourceSettings("tested", self.reader, tuple(map(str, paths)), options, **settings)

    def check(self, records: list[Record], expected: Expected) -> None:
        assert len(records) == N_RECORDS
        for k, record in enumerate(records):
            np.testing.assert_array_equal(record.numbers, expected.numbers)
            np.testing.assert_allclose(record.pos, expected.pos[k], atol=self.tolerance)
            np.testing.assert_allclose(record.cell, expected.cell, atol=self.tolerance)
            np.testing.assert_array_equal(record.pbc, expected.pbc)
            assert record.energy == pytest.approx(expected.energy[k], abs=self.tolerance * 100)
            if self.forces:
                assert record.forces is not None
                np.testing.assert_allclose(record.forces, expected.forces[k], atol=self.tolerance)
            else:
                assert record.forces is None

    def test_values_are_right(self, path: Path, expected: Expected) -> None:
        items = read_all(self.source(path))
        assert bad(items) == []
        self.check(good(items), expected)
        assert [record.group is not None for record in good(items)] == [True] * N_RECORDS

    @pytest.mark.parametrize("n_files", [1, 2])
    def test_shards_together_are_the_source_once(self, tmp_path: Path, expected: Expected, n_files: int) -> None:
        folders = [tmp_path / f"part{k}" for k in range(n_files)]
        for folder in folders:
            folder.mkdir()
        source = self.source(*[self.write(folder, expected) for folder in folders])
        whole = read_all(source)
        assert len(whole) == n_files * N_RECORDS
        assert max(Counter(map(place, whole)).values()) == 1
        key = str
        for n_shards in (1, 2, 7):
            dealt = read_all(source, n_shards)
            assert sorted(map(content, dealt), key=key) == sorted(map(content, whole), key=key)

    def test_reading_twice_gives_the_same(self, path: Path) -> None:
        source = self.source(path)
        assert [content(item) for item in read_all(source)] == [content(item) for item in read_all(source)]

    def test_count_is_what_is_read(self, path: Path) -> None:
        count = get_reader(self.reader).count(self.source(path))
        assert count == (N_RECORDS if self.counts else None)

    def test_a_broken_record_costs_only_itself(self, path: Path) -> None:
        whole = read_all(self.source(path))
        self.spoil(path, 2)
        for n_shards in (1, 2, 4):
            items = read_all(self.source(path), n_shards)
            (broken,) = bad(items)
            assert broken.reason
            assert place(broken) == place(whole[2])
            assert Counter(map(place, items)) == Counter(map(place, whole))

    def test_a_truncated_file_is_a_sentence(self, path: Path) -> None:
        before = len(read_all(self.source(path)))
        self.cut(path)
        counts = set()
        for n_shards in (1, 3):
            items = read_all(self.source(path), n_shards)
            assert bad(items)
            assert all(item.reason and "\n" not in item.reason for item in bad(items))
            assert len(good(items)) < before
            counts.add(len(items))
        assert len(counts) == 1
        count = get_reader(self.reader).count(self.source(path))
        assert count is None or count >= 0

    def test_an_empty_file_is_named(self, tmp_path: Path, path: Path) -> None:
        path.write_bytes(b"")
        (item,) = read_all(self.source(path))
        assert isinstance(item, BadRecord)
        assert item.file == str(path)

    def test_a_folder_or_a_file_of_bytes_costs_only_itself(self, tmp_path: Path, path: Path) -> None:
        whole = read_all(self.source(path))
        folder, noise = tmp_path / "other" / path.name, tmp_path / "noise" / path.name
        folder.mkdir(parents=True)
        noise.parent.mkdir()
        noise.write_bytes(np.random.default_rng(0).bytes(3000))
        for n_shards in (1, 2):
            items = read_all(self.source(folder, path, noise), n_shards)
            assert [content(item) for item in items if isinstance(item, Record) and item.file == str(path)] == [
                content(item) for item in whole
            ] or n_shards > 1
            assert sum(isinstance(item, Record) for item in items) == N_RECORDS
            assert {str(folder), str(noise)} == {item.file for item in bad(items)}

    @pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
    def test_compressed_is_the_same(self, path: Path, expected: Expected, suffix: str) -> None:
        packed = compress(path, suffix)
        self.check(good(read_all(self.source(packed))), expected)
        self.cut(packed)
        assert bad(read_all(self.source(packed)))

    @pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
    def test_members_of_archives_are_the_same(
        self, tmp_path: Path, path: Path, expected: Expected, suffix: str
    ) -> None:
        other = tmp_path / "notes.txt"
        other.write_text("not data\n")
        packed = archive(tmp_path / f"all{suffix}", {f"run1/{path.name}": path, "run2/notes.txt": other})
        source = self.source(packed, options={"members": f"*/{path.name}"})
        items = read_all(source, 2)
        self.check(sorted(good(items), key=place), expected)
        assert {item.file for item in items} == {f"{packed}::run1/{path.name}"}
        data = packed.read_bytes()
        packed.write_bytes(data[: 1000 if suffix == ".tar" else len(data) // 2])
        assert bad(read_all(source))

    def test_files_on_disk_are_asked_for(self, tmp_path: Path, path: Path) -> None:
        packed = archive(tmp_path / "all.tar", {path.name: path})
        (item,) = bad(read_all(self.source(packed)))
        assert "npack" in item.reason
        assert item.file == f"{packed}::{path.name}"


def compress(path: Path, suffix: str) -> Path:
    packed = path.with_name(path.name + suffix)
    module: Any = {".gz": gzip, ".bz2": bz2, ".xz": lzma}.get(suffix) or import_module("zstandard")
    packed.write_bytes(module.compress(path.read_bytes()))
    return packed


def archive(target: Path, members: dict[str, Path]) -> Path:
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, path in members.items():
                zipped.write(path, name)
        return target
    mode = {".tar": "w", ".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[target.suffix]
    with tarfile.open(target, mode) as packed:  # type: ignore[call-overload]
        for name, path in members.items():
            packed.add(path, name)
    return target
