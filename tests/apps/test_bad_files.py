"""One bad file or record never costs the rest: whatever a parser raises, it is named and reading goes on."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from gfm_pipeline.apps.ingest.checks.filters import Conversion, clean
from gfm_pipeline.apps.ingest.files.file_reader import Frame, Parse
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.ingest.readers.ase.files import AseReader
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import BadRecord, ForceSign, SourceSettings
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.contracts.sources import validate_options
from gfm_pipeline.core.errors import DataError, IntegrityError, NodeError, StorageError

FRAME = '1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-3.{k} Lattice="4 0 0 0 4 0 0 0 4"\nCu 0 0 0 0 0 0\n'
RAISED = [
    AssertionError(),
    UnboundLocalError("local variable 'x' referenced before assignment"),
    ModuleNotFoundError("No module named 'netCDF4'"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    StopIteration(),
    NotImplementedError("not yet"),
    SyntaxError("invalid"),
    IsADirectoryError(errno.EISDIR, "Is a directory"),
    OSError(errno.EINVAL, "Invalid argument"),
    OSError(errno.ENAMETOOLONG, "File name too long"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "POSCAR"),
    PermissionError(errno.EACCES, "Permission denied"),
    DataError("It is of an unknown kind.", "Convert it."),
    IntegrityError("It is damaged."),
    type("ParseError", (Exception,), {})("Incomplete OUTCAR"),
]
OF_THE_STORAGE = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EMFILE, "Too many open files"),
    StorageError("Cannot write x: No space left on device."),
    NodeError("A rank was lost."),
]


def settings(*files: Path, reader: str = "ase", **more: Any) -> SourceSettings:
    options = validate_options(reader, more.pop("options", {}))
    return SourceSettings("s", reader, tuple(map(str, files)), options, group_key="@record", **more)


def read(source: SourceSettings) -> tuple[list[Record], list[BadRecord]]:
    items = list(get_reader(source.reader).read(source, 0, 1, 0))
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, BadRecord)]


def three(folder: Path) -> list[Path]:
    paths = [folder / f"{name}.xyz" for name in "abc"]
    for k, path in enumerate(paths):
        path.write_text(FRAME.format(k=k) + FRAME.format(k=k + 5))
    return paths


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, while_parsing: bool) -> None:
    """Let the first record of the file ``b.xyz`` raise, when it is parsed or when the file is cut."""
    usual = AseReader.frames

    def refuse() -> Frame:
        raise error

    def frames(self: AseReader, part: Any, options: Any) -> Iterator[Parse]:
        for number, parse in enumerate(usual(self, part, options)):
            if part.file.name == "b.xyz" and not number:
                if not while_parsing:
                    raise error
                yield refuse
            else:
                yield parse

    monkeypatch.setattr(AseReader, "frames", frames)


@pytest.mark.parametrize("while_parsing", [True, False])
@pytest.mark.parametrize("error", RAISED, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'errno', '')}")
def test_whatever_a_parser_raises_costs_the_record_or_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, while_parsing: bool
) -> None:
    failing(monkeypatch, error, while_parsing)
    source = settings(*three(tmp_path))
    records, (bad,) = read(source)
    assert len(records) == (5 if while_parsing else 4)
    assert (bad.file, bad.index) == (str(tmp_path / "b.xyz"), 0)
    assert bad.reason.startswith("unreadable: ")
    assert len(bad.reason) > len("unreadable: ")
    assert not any(ours in bad.reason for ours in ("DataError", "IntegrityError"))
    seen = preview(PreviewSpec(source, 0))
    assert seen.usable == len(records)
    assert str(tmp_path / "b.xyz") in seen.removed[0].example


@pytest.mark.parametrize("error", OF_THE_STORAGE, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'errno', '')}")
def test_trouble_of_the_storage_is_no_bad_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for while_parsing in (True, False):
        failing(monkeypatch, error, while_parsing)
        with pytest.raises(type(error)):
            read(settings(*three(tmp_path)))
        monkeypatch.undo()


def archive_with_a_wrong_offset(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.xyz", FRAME.format(k=0))
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x05\x06") + 16
    data[at : at + 4] = (0x7FFFFFFF).to_bytes(4, "little")
    path.write_bytes(data)


def archive_with_a_wrong_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr("a.xyz", FRAME.format(k=0))
    path.write_bytes(path.read_bytes().replace(b"energy=-3.0", b"energy=-4.0"))  # the checksum is another now


DAMAGED: dict[str, Callable[[Path], object]] = {
    "offset.zip": archive_with_a_wrong_offset,
    "member.zip": archive_with_a_wrong_member,
    "text.zip": lambda path: path.write_text("no archive"),
    "text.xyz.gz": lambda path: path.write_text("not compressed"),
    "text.tar.gz": lambda path: path.write_text("not compressed"),
    "d.xyz": Path.mkdir,
    "d.traj": Path.mkdir,
    "d.zip": Path.mkdir,
    "d.cif": Path.mkdir,
    "text.traj": lambda path: path.write_text("no trajectory"),
    "vasprun.xml": lambda path: path.write_text("<modeling><calculation><structure>"),
    "OUTCAR": lambda path: path.write_text(""),
    "cut.json": lambda path: path.write_text('{"1": {'),
    "noise.cif": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "noise.db": lambda path: path.write_bytes(bytes(range(256)) * 8),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_through_ase_are_named(tmp_path: Path, name: str) -> None:
    good = three(tmp_path)
    DAMAGED[name](tmp_path / name)
    records, bad = read(settings(good[0], tmp_path / name, good[1]))
    assert {Path(item.file.partition("::")[0]).name for item in bad} == {name}
    assert {Path(record.file).name for record in records if name not in record.file} == {"a.xyz", "b.xyz"}


def test_an_empty_outcar_costs_itself(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "OUTCAR").write_text("")
    (tmp_path / "OUTCAR").write_text(" vasp.6.4.2 20Jul23\n executed on LinuxIFC\n")
    records, bad = read(settings(tmp_path / "a" / "OUTCAR", tmp_path / "OUTCAR", reader="vasp"))
    assert records == []
    assert {item.file for item in bad} == {str(tmp_path / "a" / "OUTCAR"), str(tmp_path / "OUTCAR")}


@pytest.mark.parametrize("row", ["d,-3", "x" * 5000 + ",-3", "b\0,-3", "a,-3,4", '"', "a"])
def test_a_row_of_a_table_costs_only_itself(tmp_path: Path, row: str) -> None:
    write(tmp_path / "a.cif", bulk("Cu"))
    (tmp_path / "d.cif").mkdir()
    (tmp_path / "t.csv").write_text(f"id,energy\na,-3\n{row}\na,-4\n")
    records, bad = read(settings(tmp_path / "t.csv", reader="cif-csv", forces_are=ForceSign.NONE))
    assert [r.energy for r in records] == [-3.0, -4.0]
    assert [item.index for item in bad] == [1]


def test_a_group_of_an_hdf5_file_costs_only_itself(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("A", "B", "C"):
            group = file.create_group(name)
            group["atomic_numbers"] = np.array([1, 1])
            group["coordinates"] = 1.0 if name == "B" else np.arange(12.0).reshape(2, 2, 3)  # B: no conformers
            group["wb97x_dz.energy"] = np.array([-1.0, -1.1])
            group["wb97x_dz.forces"] = np.zeros((2, 2, 3))
    source = settings(tmp_path / "a.h5", reader="hdf5", options={"layout": "ani-1x"})
    records, bad = read(source)
    assert len(records) == 4
    assert [item.index for item in bad] == [2]


@pytest.mark.parametrize(
    "change",
    [
        {"cell": np.zeros(3)},
        {"pbc": np.zeros(1, dtype=bool)},
        {"numbers": np.array([8.5])},
        {"numbers": np.array([[8]])},
        {"numbers": np.array(["O"], dtype=object)},
        {"energy": np.array([1.0, 2.0])},
        {"energy": {"a": 1}},
        {"forces": [[1.0], [1.0, 2.0]]},
        {"forces": "none"},
        {"pos": np.zeros(3)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_values_of_odd_shapes_cost_the_record(tmp_path: Path, change: dict[str, Any], monkeypatch: Any) -> None:
    plain: dict[str, Any] = {
        "numbers": np.array([8]),
        "pos": np.zeros((1, 3)),
        "energy": np.array([-3.0]),  # an array of one number is that number
        "forces": np.zeros((1, 3)),
    }
    monkeypatch.setattr(
        AseReader, "frames", lambda *_: iter([partial(Frame, **plain), partial(Frame, **{**plain, **change})])
    )
    source = settings(three(tmp_path)[0])
    first, second = get_reader("ase").read(source, 0, 1, 0)
    conversion = Conversion.of(source)
    assert isinstance(first, Record)
    kept = clean(first, source, conversion)
    assert isinstance(kept, Record)
    assert kept.energy == -3.0
    assert isinstance(second if isinstance(second, BadRecord) else clean(second, source, conversion), BadRecord)
    assert preview(PreviewSpec(source, 0)).usable == 1
