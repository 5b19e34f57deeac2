"""NumPy archives: MD17, rMD17, and frames of different molecules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import N_RECORDS, Conformance, Expected, bad, good, read_all

from gfm_pipeline.apps.ingest.checks.filters import Conversion, clean
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import EnergyUnit, SourceSettings


class Npz(Conformance):
    reader = "npz"
    counts = True
    # No `spoil`: frames share arrays.


class TestRmd17(Npz):
    periodic = False

    def write(self, folder: Path, expected: Expected) -> Path:
        np.savez(
            folder / "rmd17_methanol.npz",
            nuclear_charges=expected.numbers.astype(np.uint8),
            coords=expected.pos,
            energies=expected.energy,
            forces=expected.forces,
            old_indices=np.arange(N_RECORDS) * 7,
        )
        return folder / "rmd17_methanol.npz"

    def test_what_else_there_is_is_metadata(self, path: Path) -> None:
        records = good(read_all(self.source(path, group_key="old_indices")))
        assert [record.group for record in records] == [str(7 * k) for k in range(N_RECORDS)]

    def test_the_arrays_are_listed_but_those_of_the_structure(self, path: Path) -> None:
        (keys,) = {record.keys for record in good(read_all(self.source(path)))}
        assert keys is not None
        assert (keys.energy, keys.forces) == ("energies", "forces")
        assert [key.name for key in keys.keys] == ["energies", "forces", "old_indices"]

    def test_units_are_those_the_source_says(self, path: Path, expected: Expected) -> None:
        source = self.source(path, energy_unit=EnergyUnit.KCAL_MOL)
        first = clean(good(read_all(source))[0], source, Conversion.of(source))
        assert isinstance(first, Record)
        assert first.energy == pytest.approx(expected.energy[0] * 0.0433641, rel=1e-5)


class TestMd17(Npz):
    """Energies [F, 1], texts about the file, and a cell, as sGDML writes them."""

    def write(self, folder: Path, expected: Expected) -> Path:
        np.savez(
            folder / "md17_x.npz",
            z=expected.numbers,
            R=expected.pos,
            E=expected.energy[:, None],
            F=expected.forces,
            lattice=expected.cell,
            name=np.array("x"),
            theory=np.array("PBE+TS"),
        )
        return folder / "md17_x.npz"

    def test_texts_are_metadata_of_all(self, path: Path) -> None:
        assert {r.group for r in good(read_all(self.source(path, group_key="theory")))} == {"PBE+TS"}


def test_molecules_of_different_sizes_are_padded(tmp_path: Path) -> None:
    numbers = np.array([[8, 1, 1], [8, 1, 0]])
    values = {"R": np.ones((2, 3, 3)), "E": np.zeros(2), "F": np.ones((2, 3, 3))}
    np.savez(tmp_path / "a.npz", z=numbers, **values)
    records = good(read_all(SourceSettings("s", "npz", (str(tmp_path / "a.npz"),))))
    assert [r.numbers.tolist() for r in records] == [[8, 1, 1], [8, 1]]
    assert [np.shape(r.forces) for r in records] == [(3, 3), (2, 3)]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"R": np.zeros((2, 1, 3))}, "no array is named nuclear_charges or .*; the file holds R"),
        ({"z": np.array([1]), "R": np.zeros(3)}, "R has the shape"),
        ({"z": np.array([1]), "R": np.array([{}], dtype=object)}, "[Pp]ickle"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    (item,) = bad(read_all(SourceSettings("s", "npz", (str(tmp_path / "a.npz"),))))
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(item.reason)
