"""What files call cells, periodic directions and species, and how their bytes begin and their lines end."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import numpy as np
import pytest
from conformance import bad, good, read_all

from gfm_pipeline.core.contracts.data import SourceSettings

CELL = "4.0 0.5 0 0 5.0 0 0 0 6.0"


def extxyz(path: Path, comment: str, species: tuple[str, str] = ("Cu", "Cu")) -> SourceSettings:
    path.write_text(f"2\n{comment} energy=-1\n{species[0]} 0 0 0 1 0 0\n{species[1]} 0 0 2.5 -1 0 0\n")
    return SourceSettings("x", "ase", (str(path),), group_key="@record")


COLUMNS = "species:S:1:pos:R:3:forces:R:3"


@pytest.mark.parametrize(
    "comment",
    [
        f'lattice="{CELL}" properties={COLUMNS}',
        f'LATTICE="{CELL}" Properties={COLUMNS}',
        f'Properties={COLUMNS} cell="{CELL}"',
        f"Properties={COLUMNS} Cell=[[4.0, 0.5, 0], [0, 5.0, 0], [0, 0, 6.0]]",
        f"Properties={COLUMNS} unit_cell={{{CELL}}}",
        f'Properties={COLUMNS} Lattice="{CELL}" cell=primitive',
        f'Properties={COLUMNS} lattice="{CELL}" note="a\\"b"',
    ],
)
@pytest.mark.parametrize(
    ("periodic", "expected"),
    [
        ("", "TTT"), ('pbc="T T F"', "TTF"), ('PBC="T T F"', "TTF"), ('pbc="1 1 0"', "TTF"),
        ('pbc="True, True, False"', "TTF"), ("pbc=[T,T,F]", "TTF"), ("pbc=F", "FFF"), ("Pbc=T", "TTT"),
    ],
)  # fmt: skip
def test_a_cell_is_a_cell_however_it_is_spelled(tmp_path: Path, comment: str, periodic: str, expected: str) -> None:
    (record,) = good(read_all(extxyz(tmp_path / "a.xyz", f"{comment} {periodic}")))
    np.testing.assert_allclose(record.cell, np.array(CELL.split(), float).reshape(3, 3))
    assert "".join("T" if on else "F" for on in record.pbc) == expected
    assert record.forces is not None
    assert record.energy == -1


@pytest.mark.parametrize(("cell", "angle"), [("4 5 6", 90), ("4 5 6 90 90 120", 120)])
def test_cells_of_lengths_and_angles(tmp_path: Path, cell: str, angle: float) -> None:
    (record,) = good(read_all(extxyz(tmp_path / "a.xyz", f'Properties={COLUMNS} cell="{cell}"')))
    a, b, c = record.cell
    np.testing.assert_allclose([np.linalg.norm(v) for v in (a, b, c)], [4, 5, 6])
    np.testing.assert_allclose(a @ b / 20, np.cos(np.radians(angle)), atol=1e-12)
    assert record.pbc.all()


def test_words_are_no_cells(tmp_path: Path) -> None:
    (record,) = good(read_all(extxyz(tmp_path / "a.xyz", f"Properties={COLUMNS} cell=primitive")))
    assert not record.pbc.any()


@pytest.mark.parametrize("symbols", [("D", "T"), ("H", "D")])
def test_isotopes_of_hydrogen_are_hydrogen(tmp_path: Path, symbols: tuple[str, str]) -> None:
    (record,) = good(read_all(extxyz(tmp_path / "a.xyz", f"Properties={COLUMNS}", symbols)))
    assert record.numbers.tolist() == [1, 1]


@pytest.mark.parametrize("symbol", ["Cu1+", "H_1", "Bq", "Gh(O)", "Q"])
def test_species_that_are_no_elements_are_named(tmp_path: Path, symbol: str) -> None:
    (item,) = bad(read_all(extxyz(tmp_path / "a.xyz", f"Properties={COLUMNS}", ("H", symbol))))
    assert item.reason.startswith(f"unknown element: {symbol!r}")


def two_frames(line_end: str = "\n") -> str:
    frame = f"2\nProperties={COLUMNS} energy=-1\nCu 0 0 0 1 0 0\nCu 0 0 2.5 -1 0 0\n"
    return (frame * 2).replace("\n", line_end)


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + two_frames().encode(),
        codecs.BOM_UTF8 + two_frames("\r\n").encode(),
        two_frames("\r\n").encode(),
        two_frames("\r").encode(),
        codecs.BOM_UTF16_LE + two_frames("\r\n").encode("utf-16-le"),
        codecs.BOM_UTF16_BE + two_frames().encode("utf-16-be"),
    ],
)
def test_marks_and_line_ends_of_windows_cost_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.xyz"
    path.write_bytes(content)
    items = read_all(SourceSettings("x", "ase", (str(path),), group_key="@record"))
    assert bad(items) == []
    assert [record.energy for record in good(items)] == [-1, -1]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_may_begin_with_a_mark(tmp_path: Path, name: str) -> None:
    site = {"species": [{"element": "Cu", "occu": 1}], "abc": [0, 0, 0], "xyz": [0, 0, 0], "label": "Cu"}
    lattice = {"matrix": (3.0 * np.eye(3)).tolist()}
    entry = {"structure": {"@class": "Structure", "lattice": lattice, "sites": [site]}, "energy": -1.0}
    text = json.dumps({**entry, "forces": [[0, 0, 0]]})
    path = tmp_path / name
    path.write_bytes(codecs.BOM_UTF8 + f"{text}\r\n".encode())
    items = read_all(SourceSettings("x", "pymatgen-json", (str(path),), group_key="@record"))
    assert [record.energy for record in good(items)] == [-1.0]
