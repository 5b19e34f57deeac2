"""Ingest: bad records, units, options of readers, and real data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ingest_cases import all_columns, labelled, only_shard, run_all, run_read

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.ingest.checks.filters import Conversion, clean
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record, reduced_formula
from gfm_pipeline.core.contracts.data import BadRecord, EnergyUnit, LengthUnit, SourceSettings, Split
from gfm_pipeline.core.contracts.sources import block_size, validate_options
from gfm_pipeline.core.errors import ConfigError, DataError


def good_record() -> Record:
    return Record(
        numbers=np.array([29, 79]),
        pos=np.array([[0.0, 0, 0], [2.0, 0, 0]]),
        forces=np.full((2, 3), 0.5),
        energy=-3.0,
        cell=4.0 * np.eye(3),
        pbc=np.array([True, True, True]),
        group="g",
        file="f",
        file_index=0,
        index=17,
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"energy": None}, "no energy"),
        ({"forces": None}, "no forces"),
        ({"group": None}, "no group: the record has no `run`"),
        ({"energy": float("nan")}, "energy is not a finite number"),
        ({"forces": np.array([[0.0, 0, 0], [np.inf, 0, 0]])}, "forces are not finite numbers"),
        ({"energy": -1e300}, "energy is beyond 1e+12 eV: -1e+300"),
        ({"forces": np.array([[0.0, 0, 0], [1e308, 0, 0]])}, "forces are beyond 1e+12 eV/Angstrom: 1e+308"),
        ({"forces": np.zeros((3, 3))}, "forces are not finite numbers"),
        ({"pos": np.array([[0.0, 0, 0], [np.nan, 0, 0]])}, "positions or cell are not finite numbers"),
        ({"numbers": np.array([29, 0])}, "unknown element: atomic number 0"),
        ({"numbers": np.array([119, 29])}, "unknown element: atomic number 119"),
        ({"numbers": np.zeros(0, int), "pos": np.zeros((0, 3)), "forces": np.zeros((0, 3))}, "no atoms"),
        ({"cell": np.zeros((3, 3))}, "periodic cell has no volume"),
        ({"cell": np.array([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 3.0]])}, "periodic cell has no volume"),
        ({"pos": np.array([[0.0, 0, 0], [0.2, 0, 0]])}, "atoms overlap"),
        ({"pos": np.array([[0.0, 0, 0], [3.9, 0, 0]])}, "atoms overlap"),
        ({"forces": np.full((2, 3), -31.0)}, "force above the limit: 31 eV/Angstrom"),
        ({"energy": "many"}, "unreadable"),
        ({"forces": "none"}, "unreadable"),
    ],
)
def test_each_fault_is_named(change: dict[str, Any], reason: str) -> None:
    source = SourceSettings("cu", "ase", group_key="run", max_force=30.0)
    result = clean(replace(good_record(), **change), source, Conversion.of(source))
    assert isinstance(result, BadRecord)
    assert result.reason.startswith(reason)
    assert (result.source, result.file, result.index) == ("cu", "f", 17)


def test_what_is_no_fault() -> None:
    source = SourceSettings("cu", "ase")
    finite = {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, dtype=bool)}
    for change in ({}, finite, {"forces": np.full((2, 3), 500.0)}):
        assert isinstance(clean(replace(good_record(), **change), source, Conversion.of(source)), Record)


def test_quarantine_is_written_counted_and_limited(tmp_path: Path) -> None:
    frames = labelled(12)
    frames[4].calc = None
    frames[7].positions[1] = frames[7].positions[0]
    write(tmp_path / "x.extxyz", frames)
    source = SourceSettings("x", "ase", (str(tmp_path / "x.extxyz"),), group_key="run")
    result = run_all(tmp_path / "ok", source, max_quarantined=0.2)
    lines = (Path(result.output) / "quarantine.jsonl").read_text().splitlines()
    assert [(json.loads(line)["index"], json.loads(line)["source"]) for line in lines] == [(4, "x"), (7, "x")]
    assert result.statistics.n_quarantined == 2
    assert result.statistics.reasons == {"atoms overlap": 1, "no energy": 1}
    assert "| atoms overlap | 1 |" in (Path(result.output) / "ingest_report.md").read_text()
    with pytest.raises(DataError, match=r"2 of 12 records .* 10 % allowed \(1 x atoms overlap, 1 x no energy\)"):
        run_all(tmp_path / "strict", source, max_quarantined=0.1)
    for atoms in frames:
        atoms.calc = None
    write(tmp_path / "x.extxyz", frames)
    with pytest.raises(DataError, match="no usable record: all 12 were set aside"):
        run_all(tmp_path / "none", source, max_quarantined=1.0)
    assert not (tmp_path / "none" / "x").exists()


def test_atomic_units_give_the_same_dataset(tmp_path: Path) -> None:
    frames = labelled()
    write(tmp_path / "ev.extxyz", frames)
    for atoms in frames:
        energy, forces = atoms.calc.results["energy"], atoms.calc.results["forces"]
        atoms.set_cell(atoms.cell / units.Bohr)
        atoms.positions /= units.Bohr
        atoms.calc = SinglePointCalculator(
            atoms, energy=energy / units.Hartree, forces=forces / units.Hartree * units.Bohr
        )
    write(tmp_path / "au.extxyz", frames)
    ev = SourceSettings("x", "ase", (str(tmp_path / "ev.extxyz"),), group_key="run")
    au = replace(ev, files=(str(tmp_path / "au.extxyz"),), energy_unit=EnergyUnit.HARTREE, length_unit=LengthUnit.BOHR)
    a, b = all_columns(run_all(tmp_path / "ev", ev)), all_columns(run_all(tmp_path / "au", au))
    for name in ("numbers", "pos", "forces", "energy", "cell", "pbc", "natoms", "group", "origin"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-6, err_msg=name)
    assert run_read(tmp_path / "ev", ev)[0].converted == ()
    sentences = run_read(tmp_path / "au", au)[0].converted
    assert [s.split(" were")[0] for s in sentences] == ["Energies", "Lengths", "Forces"]
    assert "from Ha/Bohr to eV/Angstrom (times 51.42" in sentences[2]


@pytest.mark.parametrize(("unit", "factor"), [(EnergyUnit.KCAL_MOL, 0.0433641), (EnergyUnit.KJ_MOL, 0.01036427)])
def test_molar_units(unit: EnergyUnit, factor: float) -> None:
    source = SourceSettings("x", "ase", energy_unit=unit)
    converted = Conversion.of(source).apply(good_record())
    assert converted.energy == pytest.approx(-3.0 * factor, rel=1e-5)
    assert converted.forces == pytest.approx(np.full((2, 3), 0.5 * factor), rel=1e-5)
    np.testing.assert_array_equal(converted.pos, good_record().pos)


@pytest.mark.parametrize(
    ("reader", "options", "message"),
    [
        ("emt-aloys", {}, "Did you mean emt-alloys"),
        ("xtb-md", {"replica": 3}, r"no option 'replica'.*Did you mean replicas"),
        ("xtb-md", {"replicas": 0}, "replicas of reader xtb-md is wrong"),
        ("xtb-md", {"temperatures": []}, "temperatures"),
        ("emt-alloys", {"metals": ["Cu", "Fe"]}, "no EMT parameters for Fe"),
        ("ocp-lmdb", {"anything": 1}, "It takes none"),
        (
            "hdf5",
            {},
            r"Reader hdf5 needs the option layout. Write for instance options: {layout: \S+}. Choose from: .*ani",
        ),
    ],
)
def test_wrong_options_are_explained(reader: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate_options(reader, options)


def test_defaults_are_filled_in() -> None:
    options = validate_options("emt-alloys", {"parents": 3})
    assert options["parents"] == 3
    assert options["rattle"] == [0.05, 0.15]
    assert validate_options("emt-alloys", options) == options
    assert block_size("@block:12") == 12
    with pytest.raises(ConfigError, match="not known"):
        block_size("@blocks")


def test_options_need_no_heavy_import() -> None:
    code = (
        "import sys, gfm_pipeline.core.contracts.readers, gfm_pipeline.core.contracts.sources;"
        "print([m for m in ('torch', 'adios2', 'ase', 'pymatgen') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_does_not_import_torch() -> None:
    modules = "gfm_pipeline.apps.ingest.read, gfm_pipeline.apps.ingest.generators.xtb_md"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"  # its OpenMP would slow tblite many times


def test_reduced_formula() -> None:
    assert reduced_formula(np.array([8, 1, 1, 8, 1, 1])) == "H2O1"
    assert reduced_formula(np.array([200, 29])) == "Cu1Z2001"


needs_data = pytest.mark.skipif(
    "GFM_REAL_DATA" not in os.environ, reason="GFM_REAL_DATA does not name a folder with real data sets"
)


def real(*parts: str) -> Path:
    return Path(os.environ["GFM_REAL_DATA"], *parts)


@needs_data
def test_real_acetylacetone(tmp_path: Path) -> None:
    file = real("acac", "train_300K.xyz")
    isolated = {
        a.get_chemical_symbols()[0]: a.calc.results["energy"] for a in read(real("acac", "isolated_atoms.xyz"), ":")
    }
    source = SourceSettings("acac", "ase", (str(file),), group_key="@block:10", shards=2, isolated_energies=isolated)
    result = run_all(tmp_path, source, fraction=0.1)
    assert result.statistics.n_structures == {"trainset": 400, "valset": 50, "testset": 50}
    assert result.statistics.reference_from == "isolated atoms"
    assert result.statistics.energy_mean == pytest.approx(-5.0, abs=1.0)  # binding, eV/atom
    dataset = Dataset.open(Path(result.output))
    columns, frames = dataset.columns(Split.TEST), read(file, ":")
    assert columns.origin.tolist() != sorted(columns.origin.tolist())
    for g, origin in enumerate(columns.origin.tolist()):
        atoms = slice(int(columns.offsets[g]), int(columns.offsets[g + 1]))
        assert columns.energy[g] == frames[origin].calc.results["energy"]
        np.testing.assert_allclose(columns.forces[atoms], frames[origin].calc.results["forces"], atol=1e-6)
        np.testing.assert_allclose(columns.pos[atoms], frames[origin].positions, atol=1e-6)
    fitted = run_all(tmp_path / "fit", replace(source, isolated_energies=None), fraction=0.1).statistics
    assert fitted.reference_rank == 1
    assert fitted.null_energy_mae["trainset"] == pytest.approx(0.0083, rel=0.1)
    assert fitted.null_force_mae["trainset"] == pytest.approx(0.77, rel=0.05)
    blocks = run_all(tmp_path / "formula", replace(source, group_key=None)).statistics  # one composition
    assert blocks.n_structures == {"trainset": 300, "valset": 100, "testset": 100}
    assert any("20 blocks of 25 consecutive records" in warning for warning in blocks.warnings)


@needs_data
def test_real_lithium_is_the_same_in_two_formats(tmp_path: Path) -> None:
    as_json = SourceSettings("li", "pymatgen-json", (str(real("mlearn", "Li_test.json")),), group_key="group")
    as_xyz = SourceSettings("li", "ase", (str(real("mlearn", "Li_test.xyz")),))
    (a, bad_a), (b, bad_b) = only_shard(tmp_path / "json", as_json), only_shard(tmp_path / "xyz", as_xyz)
    assert bad_a == bad_b == []
    assert len(set(a.groups.tolist())) > 3
    order_a, order_b = np.argsort(a.energy), np.argsort(b.energy)
    np.testing.assert_allclose(a.energy[order_a], b.energy[order_b], atol=1e-6)
    np.testing.assert_array_equal(a.natoms[order_a], b.natoms[order_b])
    np.testing.assert_allclose(np.sort(a.forces, axis=None), np.sort(b.forces, axis=None), atol=1e-5)
    assert b.pbc.all()


@needs_data
def test_real_oxides_without_forces_are_set_aside(tmp_path: Path) -> None:
    source = SourceSettings("oxides", "ase", (str(real("oxides", "oxides.db")),))
    assert get_reader("ase").count(source) == 295
    result = run_read(tmp_path, source)[0]
    assert result.n_records + result.n_quarantined == 295
    assert set(result.reasons) <= {"no forces", "no energy"}
