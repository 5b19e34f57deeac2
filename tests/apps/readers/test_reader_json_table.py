"""Tables of pandas in JSON: every orientation, columns by their usual names, and tables of pymatgen structures."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.io.jsonio import encode
from conformance import N_RECORDS, Conformance, Expected, bad, good, read_all
from pymatgen.core import Structure

from gfm_pipeline.core.contracts.data import SourceSettings

ORIENTS = ["records", "columns", "split", "index", "table", "lines"]


def written(frame: pd.DataFrame, path: Path, orient: str) -> Path:
    lines = orient == "lines"
    path.write_text(frame.to_json(orient="records" if lines else orient, lines=lines, double_precision=15))
    return path


def plain_table(expected: Expected) -> pd.DataFrame:
    n = range(N_RECORDS)
    return pd.DataFrame(
        {
            "atomic_numbers": [expected.numbers.tolist() for _ in n],
            "positions": [expected.pos[k].tolist() for k in n],
            "cell": [expected.cell.tolist() for _ in n],
            "pbc": [expected.pbc.tolist() for _ in n],
            "energy": expected.energy,
            "atomic_forces": [expected.forces[k].tolist() for k in n],
            "name": [f"run{k}" for k in n],
        }
    )


class Table(Conformance):
    reader = "json-table"
    in_archives = True
    orient: ClassVar[str]

    def write(self, folder: Path, expected: Expected) -> Path:
        return written(plain_table(expected), folder / "table.json", self.orient)

    def test_columns_are_metadata(self, path: Path) -> None:
        records = good(read_all(self.source(path, group_key="name")))
        assert [record.group for record in records] == [f"run{k}" for k in range(N_RECORDS)]


class TestRecords(Table):
    orient = "records"

    def spoil(self, path: Path, index: int) -> None:
        rows = json.loads(path.read_text())
        rows[index]["positions"] = "none"
        path.write_text(json.dumps(rows))


class TestLines(Table):
    orient = "lines"

    def spoil(self, path: Path, index: int) -> None:
        lines = path.read_text().splitlines(keepends=True)
        lines[index] = lines[index][10:]
        path.write_text("".join(lines))


class TestColumns(Table):
    orient = "columns"


class TestSplit(Table):
    orient = "split"


class TestIndex(Table):
    orient = "index"


class TestTable(Table):
    orient = "table"


class TestAseAtoms(Table):
    """As tables of pacemaker and FitSNAP have it: atoms of ASE, and labels beside them."""

    orient = "columns"

    def write(self, folder: Path, expected: Expected) -> Path:
        table = plain_table(expected)[["energy", "atomic_forces", "name"]].rename(columns={"atomic_forces": "forces"})
        atoms = [Atoms(expected.numbers, p, cell=expected.cell, pbc=expected.pbc) for p in expected.pos]
        table["ase_atoms"] = [json.loads(encode(a.todict())) for a in atoms]
        return written(table, folder / "table.json", self.orient)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("orient", ORIENTS)
def test_tables_of_pymatgen_structures_are_read_in_every_orientation(tmp_path: Path, orient: str, packed: bool) -> None:
    structures = [Structure(np.eye(3) * 3.6, ["Cu"], [[k / 50, 0, 0]]).as_dict() for k in range(12)]
    columns = {"structure": structures, "energy": np.arange(12) - 30.0, "forces": [[[0.0, 0, 0]]] * 12}
    path = written(pd.DataFrame({**columns, "material_id": [f"m{k}" for k in range(12)]}), tmp_path / "a.json", orient)
    if packed:
        path.with_name("a.json.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_name("a.json.gz")
    items = read_all(SourceSettings("s", "pymatgen-json", (str(path),), group_key="material_id"))
    assert bad(items) == []
    assert [r.energy for r in good(items)] == [k - 30.0 for k in range(12)]
    assert [r.group for r in good(items)] == [f"m{k}" for k in range(12)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"a": 1}, "not a table that pandas writes; the file holds a"),
        ([{"energy": 1.0}], "no column is named ase_atoms or atoms or atomic_numbers"),
        ([{"numbers": [1], "energy": 1.0}], "no column is named ase_atoms or atoms or positions"),
        ([1], "the row is not a mapping"),
        ({"columns": ["a", "b"], "data": [[1]]}, "more or fewer fields"),
    ],
)
def test_what_is_no_table_is_said(tmp_path: Path, text: Any, words: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(text))
    (item,) = bad(read_all(SourceSettings("s", "json-table", (str(tmp_path / "a.json"),))))
    assert words in item.reason


def test_the_columns_are_listed_but_those_of_the_structure(tmp_path: Path) -> None:
    row = {"positions": [[0, 0, 0]], "numbers": [1], "energy": -1.0, "forces": [[0, 0, 0]], "dipole": [0, 0, 1]}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "run": str(k)}) + "\n" for k in range(3)))
    (keys,) = {record.keys for record in good(read_all(SourceSettings("x", "json-table", (str(file),), {})))}
    assert keys is not None
    assert (keys.energy, keys.forces) == ("energy", "forces")
    assert [key.name for key in keys.keys] == ["energy", "forces", "dipole", "run"]
