"""Tables of labels with CIF files or CIF text."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conformance import N_RECORDS, Conformance, Expected, bad, good, read_all
from pymatgen.core import Lattice, Structure

from gfm_pipeline.apps.ingest.records import Record


def cif(expected: Expected, k: int) -> str:
    return str(
        Structure(Lattice(expected.cell), expected.numbers, expected.pos[k], coords_are_cartesian=True).to(fmt="cif")
    )


class CifCsv(Conformance):
    reader = "cif-csv"
    forces = False
    tolerance = 1e-6

    def check(self, records: list[Record], expected: Expected) -> None:
        """A CIF has lengths and angles: structures are the same up to a rotation, and sorted by element."""
        assert len(records) == N_RECORDS
        for k, record in enumerate(records):
            assert sorted(record.numbers) == sorted(expected.numbers)
            assert record.energy == pytest.approx(expected.energy[k])
            assert record.forces is None
            assert record.pbc.all()
            np.testing.assert_allclose(record.cell @ record.cell.T, expected.cell @ expected.cell.T, atol=1e-4)
            fractional = record.pos @ np.linalg.inv(record.cell)
            wanted = expected.pos[k] @ np.linalg.inv(expected.cell)
            for z, place in zip(record.numbers, fractional, strict=True):
                apart = wanted[expected.numbers == z] - place
                assert np.abs(apart - np.round(apart)).max(axis=1).min() < 1e-5


class TestFiles(CifCsv):
    """The layout of CGCNN: a table without header, files beside it."""

    options: ClassVar[dict[str, Any]] = {"columns": ["id", "energy"]}

    def write(self, folder: Path, expected: Expected) -> Path:
        for k in range(N_RECORDS):
            (folder / f"mat{k}.cif").write_text(cif(expected, k))
        rows = "".join(f"mat{k},{energy!r}\n" for k, energy in enumerate(expected.energy.tolist()))
        (folder / "id_prop.csv").write_text(rows)
        return folder / "id_prop.csv"

    def spoil(self, path: Path, index: int) -> None:
        (path.parent / f"mat{index}.cif").write_text("data_x\n_cell_length_a nothing\n")

    def cut(self, path: Path) -> None:
        text = path.read_text()
        path.write_text(text[: text.index("mat4") + 2])

    def test_missing_files_are_named(self, path: Path) -> None:
        (path.parent / "mat3.cif").unlink()
        (broken,) = bad(read_all(self.source(path)))
        assert broken.index == 3
        assert f"there is no file {path.parent / 'mat3.cif'}" in broken.reason


class TestText(CifCsv):
    """The layout of CDVAE: the CIF in a column."""

    options: ClassVar[dict[str, Any]] = {"cif": "cif"}

    def write(self, folder: Path, expected: Expected) -> Path:
        with open(folder / "train.csv", "w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["", "material_id", "energy", "cif"])
            for k, energy in enumerate(expected.energy.tolist()):
                table.writerow([k, f"mp-{k}", energy, cif(expected, k)])
        return folder / "train.csv"

    def spoil(self, path: Path, index: int) -> None:
        path.write_text(
            path.read_text().replace("_cell_length_a", "_cell", index + 1).replace("_cell ", "_cell_length_a ", index)
        )

    def test_metadata_are_columns(self, path: Path) -> None:
        records = good(read_all(self.source(path, group_key="material_id")))
        assert [record.group for record in records] == [f"mp-{k}" for k in range(N_RECORDS)]


def test_disordered_structures_are_refused(tmp_path: Path) -> None:
    structure = Structure(Lattice.cubic(3.0), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    (tmp_path / "a.cif").write_text(str(structure.to(fmt="cif")))
    (tmp_path / "t.csv").write_text("id,energy\na,1.0\n")
    (item,) = read_all(TestFiles().source(tmp_path / "t.csv", options={"columns": []}))
    assert bad([item])[0].reason == "disordered structure"
