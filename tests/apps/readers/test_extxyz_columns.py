"""The columns of extended XYZ: words and numbers as they would be taken one by one, and nothing shared by records."""

from __future__ import annotations

from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest

from gfm_pipeline.apps.ingest.readers.extxyz.columns import PropertyRows, UnusualError, floats
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import SourceSettings

LINES = ["H 0.1 0.2 0.3 7\n", "He 1.1  1.2 1.3 8\n", " Li 2.1 2.2 2.3 9"]


def test_any_columns_are_taken_line_by_line() -> None:
    rows = PropertyRows.split(LINES, 5)
    for many in range(1, 6):
        for columns in (*combinations(range(5), many), *permutations(range(5), min(many, 3))):
            assert rows.take(columns) == [line.split()[column] for line in LINES for column in columns]


@pytest.mark.parametrize(
    "lines",
    [
        ["H 0 0 0 7\n", "H 1 1 1\n", "H 2 2 2 8 9\n"],  # as many words as there should be
        ["H 0 0 0 \0\n", "H 1 1 1 7\n"],
        ["H 0 0 0\n", "\0 H 1 1 1 7\n"],
        ["H 0 0 0 7\n", "\n", "H 1 1 1 7\n"],
    ],
)
def test_lines_of_other_lengths_are_not_taken_for_rows(lines: list[str]) -> None:
    with pytest.raises(UnusualError):
        PropertyRows.split(lines, 5)


@pytest.mark.parametrize(
    "word", ["1", "-0.0", "1e-320", "123456789012345678901", ".5", "+1.", "1_0", "nan", "inf", "0x1"]
)
def test_numbers_are_those_that_python_reads(word: str) -> None:
    try:
        expected = float(word)
    except ValueError:
        with pytest.raises(ValueError, match="could not convert"):
            floats(["1.5", word])
        return
    found = floats(["1.5", word])
    assert found.tobytes() == np.array([1.5, expected]).tobytes()
    found[0] = 2.0  # and they can be changed


@pytest.mark.parametrize("word", ["1,2", "[1", "[]", "null", "true", '"1"'])
def test_what_only_json_reads_is_no_number(word: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        floats(["1.5", word])


@pytest.mark.parametrize("extra", ["", ' note="a\\\\"b"', " m=[[1,0],[0,1]]"])
@pytest.mark.parametrize(
    ("properties", "line"),
    [("species:S:1:pos:R:3", "{0} 0 0 {1}"), ("pos:R:3:species:S:1:tag:S:1", "0 0 {1}  {0} D"), (None, " {0} 0 0 {1}")],
)
def test_isotopes_are_hydrogen_in_frames_left_to_ase(
    tmp_path: Path, extra: str, properties: str | None, line: str
) -> None:
    file = tmp_path / "heavy.xyz"
    head = "energy=1.0" if properties is None else f"Properties={properties} energy=1.0"
    file.write_text(
        "\n".join(["4", head + extra, *(line.format(s, k) for k, s in enumerate(["D", "T", "O", "H"])), ""])
    )
    (record,) = get_reader("ase").read(SourceSettings("heavy", "ase", (str(file),), {}), 0, 1, 0)
    assert isinstance(record, Record), record
    assert record.numbers.tolist() == [1, 1, 8, 1]
    assert record.energy == 1.0


def test_records_of_one_cell_do_not_share_it(tmp_path: Path) -> None:
    frame = '1\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 pbc="T T F" energy=1.0\nH 0 0 0\n'
    file = tmp_path / "cell.extxyz"
    file.write_text(frame * 2)
    one, other = get_reader("ase").read(SourceSettings("cell", "ase", (str(file),), {}), 0, 1, 0)
    assert isinstance(one, Record)
    assert isinstance(other, Record)
    one.cell[0, 0], one.pbc[2] = 6.0, True
    assert other.cell[0, 0] == 5.0
    assert not other.pbc[2]
