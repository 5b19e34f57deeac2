"""Extended XYZ, trajectories and databases, by the reader `ase`."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import iread, write
from ase.io.extxyz import read_xyz
from conformance import Conformance, Expected, bad, good, read_all
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gfm_pipeline.apps.ingest.files.file_reader import Frame
from gfm_pipeline.apps.ingest.readers.extxyz import parser as extxyz
from gfm_pipeline.core.contracts.data import SourceSettings


def images(expected: Expected) -> list[Atoms]:
    frames = []
    for pos, forces, energy in zip(expected.pos, expected.forces, expected.energy, strict=True):
        atoms = Atoms(expected.numbers, pos, cell=expected.cell, pbc=expected.pbc, info={"run": f"r{len(frames) // 2}"})
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


class TestExtxyz(Conformance):
    reader = "ase"
    in_archives = True

    def write(self, folder: Path, expected: Expected) -> Path:
        write(folder / "frames.extxyz", images(expected))
        return folder / "frames.extxyz"

    def spoil(self, path: Path, index: int) -> None:
        lines = path.read_text().splitlines(keepends=True)
        lines[index * 6 + 3] = lines[index * 6 + 3].replace("H", "Qq", 1)
        path.write_text("".join(lines))

    def test_reading_goes_on_after_what_is_no_frame(self, path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:6], "H 0 0 0\n", "12\n", "H 0 0 0 0 0 0\n", *lines[6:]]))
        items = read_all(self.source(path))
        (broken,) = bad(items)
        assert broken.index == 1
        assert "'H 0 0 0' is not a number of atoms" in broken.reason
        assert [record.index for record in good(items)] == [0, 2, 3, 4, 5, 6]

    def test_the_first_record_of_a_large_file_needs_no_more_than_its_beginning(self, path: Path) -> None:
        large = path.with_name("large.extxyz")
        large.write_text(path.read_text() * 20_000)
        with open(large, encoding="utf-8") as stream:
            next(extxyz.frames(stream))()
            assert stream.buffer.tell() < large.stat().st_size / 100


class TestPlainXyz(Conformance):
    reader = "ase"
    options: ClassVar[dict[str, Any]] = {"format": "xyz"}
    periodic = False
    in_archives = True
    tolerance = 1e-6

    def write(self, folder: Path, expected: Expected) -> Path:
        write(folder / "frames.dat", images(expected), format="extxyz", columns=["symbols", "positions", "forces"])
        return folder / "frames.dat"

    def spoil(self, path: Path, index: int) -> None:
        TestExtxyz.spoil(TestExtxyz(), path, index)


class TestTrajectory(Conformance):
    reader = "ase"
    # No `spoil`: frames are found by offsets, and damage shows as wrong numbers.
    counts = True

    def write(self, folder: Path, expected: Expected) -> Path:
        write(folder / "frames.traj", images(expected))
        return folder / "frames.traj"


class TestSqlite(Conformance):
    reader = "ase"
    counts = True

    def write(self, folder: Path, expected: Expected) -> Path:
        with connect(folder / "frames.db") as database:
            for atoms in images(expected):
                database.write(atoms, run=atoms.info["run"])
        return folder / "frames.db"

    def spoil(self, path: Path, index: int) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE systems SET positions = ? WHERE id = ?", (b"abc", index + 1))
        connection.close()


class TestAseLmdb(Conformance):
    reader = "ase"
    counts = True

    def write(self, folder: Path, expected: Expected) -> Path:
        pytest.importorskip("ase_db_backends", reason="ase-db-backends is not installed")
        with connect(folder / "frames.aselmdb", type="aselmdb") as database:
            for atoms in images(expected):
                database.write(atoms, run=atoms.info["run"], data={"source": "made"})
        return folder / "frames.aselmdb"

    def spoil(self, path: Path, index: int) -> None:
        with lmdb.open(str(path), subdir=False, map_size=2**28) as environment, environment.begin(write=True) as txn:
            txn.put(str(index + 1).encode(), zlib.compress(json.dumps({"numbers": [1]}).encode()))

    def test_metadata_are_found_and_deleted_rows_skipped(self, path: Path) -> None:
        with connect(path, type="aselmdb") as database:
            database.delete([2])
        path.with_name(path.name + "-lock").unlink(missing_ok=True)
        path.chmod(0o444)
        items = read_all(self.source(path, group_key="run"))
        assert [record.group for record in good(items)] == ["r0", "r1", "r1", "r2", "r2"]
        assert {record.group for record in good(read_all(self.source(path, group_key="source")))} == {"made"}
        assert sorted(p.name for p in path.parent.iterdir()) == [path.name]  # no lock file


def assert_equal(frame: Frame, atoms: Atoms) -> None:
    """The fast parser gives what ASE gives: bit for bit, and by every name."""
    np.testing.assert_array_equal(frame.numbers, atoms.numbers)
    np.testing.assert_array_equal(frame.pos, atoms.positions)
    np.testing.assert_array_equal(frame.cell, atoms.cell.array)
    np.testing.assert_array_equal(frame.pbc, atoms.pbc)
    results = {} if atoms.calc is None else atoms.calc.results
    for name, value in {**atoms.info, **atoms.arrays, **results}.items():
        if name not in ("numbers", "positions"):
            np.testing.assert_equal(frame.find(name), value, err_msg=name)
    first, second = ("free_energy", "energy") if frame.forces is not None else ("energy", "free_energy")
    np.testing.assert_equal(frame.energy, results.get(first, results.get(second)))
    forces = results.get("forces", atoms.arrays.get("force"))
    np.testing.assert_equal(frame.forces, forces)


REAL = ["acac/train_300K.xyz", "acac/test_MD_300K.xyz", "acac/isolated_atoms.xyz", "3bpa/train_300K.xyz"]
REAL += [
    "3bpa/train_mixedT.xyz",
    "3bpa/iso_atoms.xyz",
    "mlearn/Cu_test.xyz",
    "mlearn/Li_test.xyz",
    "mlearn/Ni_test.xyz",
]


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_as_by_ase_without_its_parser(
    real_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(iread(real_data / name, index=":"))
    monkeypatch.delattr(extxyz, "read_xyz")
    with open(real_data / name, encoding="utf-8") as lines:
        frames = [parse() for parse in extxyz.frames(lines)]
    assert len(frames) == len(expected)
    for frame, atoms in zip(frames, expected, strict=True):
        assert_equal(frame, atoms)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name.lower() not in {"lattice", "pbc", "properties", "pos", "species", "z", "virial", "stress", "uid"}
)
finite = st.floats(allow_nan=False, width=64)
values = st.one_of(
    finite,
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.lists(finite, min_size=2, max_size=4).map(np.array),
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8),
    st.sampled_from(["a b", "T", "F F", "1,2", "_JSON [1, 2]", 'say "so"', "{x}", "[1 2]", "back\\slash"]),
    st.dictionaries(st.text("ab", min_size=1), st.integers(0, 5), min_size=1, max_size=2),
)


@st.composite
def written(draw: st.DrawFn) -> str:
    """A frame as ASE writes it."""
    n = draw(st.integers(1, 4))
    atoms = Atoms(draw(st.lists(st.integers(1, 103), min_size=n, max_size=n)), np.zeros((n, 3)))
    atoms.positions = draw(st.lists(st.tuples(finite, finite, finite), min_size=n, max_size=n))
    if draw(st.booleans()):
        atoms.cell = draw(st.lists(st.tuples(*[st.floats(-50, 50)] * 3), min_size=3, max_size=3))
        atoms.pbc = draw(st.lists(st.booleans(), min_size=3, max_size=3))
    atoms.info = draw(st.dictionaries(names, values, max_size=4))
    label = draw(st.sampled_from(["forces", "force", "dft_forces", "momenta"]))
    if draw(st.booleans()):
        atoms.arrays[label] = np.array(draw(st.lists(st.tuples(finite, finite, finite), min_size=n, max_size=n)))
    if draw(st.booleans()):
        atoms.info["energy"] = draw(finite)
    if draw(st.booleans()):
        atoms.arrays["tags"] = np.arange(n)
    if draw(st.booleans()):
        atoms.arrays["move_mask"] = np.arange(n) % 2 == 0
    if draw(st.booleans()):
        atoms.arrays["label"] = np.array([f"x{k}" for k in range(n)])
    text = StringIO()
    columns = ["symbols", "positions", *(name for name in atoms.arrays if name not in ("numbers", "positions"))]
    write(text, atoms, format="extxyz", columns=columns, write_results=False)
    return text.getvalue()


@settings(max_examples=60, deadline=None)
@given(text=written())
def test_whatever_ase_writes_is_read_as_by_ase(text: str) -> None:
    if not isinstance(atoms := by_ase(text), Exception):  # ASE does not read back all it writes
        assert_equal(by_us(text), atoms)


ODD_NUMBERS = ["1", "-0", "+1.5", "1.", ".5", "1e5", "1E-5", "1_0", "nan", "inf", "1e400", "null", "true", '"1"', "[1]"]
ODD_NUMBERS += ["1,2", "0x1", "1d5", "00.5", "9007199254740993", "123456789012345678901234567890", "-", "--1"]
COMMENTS = [
    "",
    "energy=-1.5",
    'pbc="T F T" energy=1',
    "pbc=T Lattice=[1,0,0,0,1,0,0,0,1]",
    'Lattice="1 0 0 0 1 0 0 0" energy=2',
    'Lattice="1 0 0 0 1 0 0 0 1" pbc="1 0 1"',
    "energy = 3",
    'note="" energy=4',
    "note='a b' energy=5",
    "flag energy=5 config_type={x y}",
    'virial="1 2 3 4 5 6 7 8 9" stress="1 2 3 4 5 6 7 8 9" energy=1e3',
    'energy="1 2"',
    "energy=1 energy=2",
    'a\\"b=3 energy=7',
    "uid=007 energy=nan",
    "Properties=species:S:1:pos:R:3:magmom:R:1 energy=1",
    "Properties=species:S:1:pos:R:3:flag:L:1 energy=1",
    "Properties=pos:R:3:Z:I:1 energy=1",
    "Properties=species:S:1:pos:R:3:move_mask:L:1",
    "Properties=species:S:1:pos:R:3:positions:R:1",
    "Properties=species:S:1:pos:R:2:odd:R:2",
    "Properties=species:S:1:pos:R:3:x",
]


def outcome(parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except Exception as error:  # noqa: BLE001 - whatever a parser raises
        return error


def by_ase(text: str) -> Any:
    return outcome(lambda: next(iter(read_xyz(StringIO(text), index=slice(0, 1)))))


def by_us(text: str) -> Any:
    return outcome(lambda: extxyz.parse(StringIO(text).readlines()))


def compare_with_ase(text: str) -> None:
    theirs, ours = by_ase(text), by_us(text)
    assert isinstance(ours, Exception) == isinstance(theirs, Exception)
    if not isinstance(theirs, Exception):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("number", ODD_NUMBERS)
def test_numbers_are_read_and_refused_as_by_ase(number: str) -> None:
    compare_with_ase(f"1\nenergy=1\nH {number} 2 3\n")
    compare_with_ase(f"2\nenergy=1\nH {number} {number} {number}\nH {number} {number} {number}\n")


@pytest.mark.parametrize("comment", COMMENTS)
@pytest.mark.parametrize("tail", ["", " 1", " T", " 0.5 0.5"])
def test_comments_are_read_and_refused_as_by_ase(comment: str, tail: str) -> None:
    compare_with_ase(f"2\n{comment}\nH 0 0 0{tail}\nO 0 0 1.5{tail}\n")


@settings(max_examples=100, deadline=None)
@given(comment=st.text(st.sampled_from("ab=\" []{}'\\,T1.5\t"), max_size=24))
@example(comment='a="b" =c')
def test_any_comment_is_read_as_by_ase(comment: str) -> None:
    text = f"1\n{comment}\nH 0 0 0\n"
    if not isinstance(atoms := by_ase(text), Exception):  # values nobody asks for are not parsed, nor refused
        assert_equal(by_us(text), atoms)


@pytest.mark.parametrize("name", ["said.extxyz", "said.traj", "said.db"])
def test_charge_and_spin_are_read_where_a_record_says_them(tmp_path: Path, name: str) -> None:
    frames = []
    for said in ({"charge": -1, "spin": 2}, {"total_charge": 1.0, "multiplicity": 3}, {"charge": "low"}, {}):
        atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info=said)
        atoms.calc = SinglePointCalculator(atoms, energy=-5.0, forces=np.zeros((2, 3)))
        frames.append(atoms)
    path = tmp_path / name
    if name.endswith(".db"):
        with connect(path) as database:
            for atoms in frames:
                database.write(atoms, data=atoms.info)
    else:
        write(path, frames)
    records = good(read_all(SourceSettings("x", "ase", (str(path),))))
    expected = [(-1.0, 2.0), (1.0, 3.0), (None, None), (None, None)]
    assert [(r.charge, r.spin) for r in records] == expected
