"""vasprun.xml and OUTCAR: a document of the documented layout, and results of real runs inside their archives."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from ase.io import iread
from conformance import Conformance, Expected, bad, good, read_all

from gfm_pipeline.core.contracts.data import EnergyUnit, SourceSettings
from gfm_pipeline.core.contracts.sources import check_units, validate_options
from gfm_pipeline.core.errors import ConfigError

PRESSURE = 20.0  # kbar


def varray(name: str, rows: Any) -> str:
    lines = "".join(f"<v> {a:.16f} {b:.16f} {c:.16f} </v>" for a, b, c in rows)
    return f'<varray name="{name}" >{lines}</varray>'


def energies(free: float, zero: float) -> str:
    return f'<energy><i name="e_fr_energy"> {free:.12f} </i><i name="e_0_energy"> {zero:.12f} </i></energy>'


class TestVasprun(Conformance):
    reader = "vasp"
    in_archives = True

    def write(self, folder: Path, expected: Expected) -> Path:
        atoms = "".join(f"<rc><c>{symbol}</c><c>1</c></rc>" for symbol in ("O ", "H ", "H ", "C "))
        pv = PRESSURE * 0.1 * units.GPa * np.linalg.det(expected.cell)
        steps = []
        for pos, forces, energy in zip(expected.pos, expected.forces, expected.energy, strict=True):
            basis = f"<crystal>{varray('basis', expected.cell)}</crystal>"
            fractional = varray("positions", pos @ np.linalg.inv(expected.cell))
            electronic = f"<scstep>{energies(energy - 5, energy - 4.5)}</scstep>" * 3  # without the dispersion
            steps.append(
                f"<calculation>{electronic}<structure>{basis}{fractional}</structure>{varray('forces', forces)}\n"
                f"{energies(energy + pv, 99.0)}</calculation>\n"
            )
        parameters = (
            f'<separator name="x"><i name="PSTRESS"> {PRESSURE} </i><i type="int" name="NELM"> 60 </i></separator>'
        )
        path = folder / "vasprun.xml"
        path.write_text(
            '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n'
            '<generator><i name="program">vasp</i></generator>\n'
            f"<parameters>{parameters}</parameters>\n"
            f'<atominfo><array name="atoms" ><set>{atoms}</set></array></atominfo>\n{"".join(steps)}</modeling>\n'
        )
        return path

    def spoil(self, path: Path, index: int) -> None:
        head, *steps = path.read_text().split("<calculation>")
        steps[index] = steps[index].replace("<v> ", "<v> ******** ", 1)
        path.write_text("<calculation>".join([head, *steps]))

    def test_the_energy_without_smearing_is_the_last_electronic_steps(self, path: Path, expected: Expected) -> None:
        records = good(read_all(self.source(path, options={"energy": "sigma->0"})))
        np.testing.assert_allclose([r.energy for r in records], expected.energy + 0.5)

    def test_unconverged_steps_are_refused(self, path: Path) -> None:
        path.write_text(path.read_text().replace('"NELM"> 60', '"NELM"> 3'))
        assert {item.reason for item in bad(read_all(self.source(path)))} == {"the electronic steps did not converge"}

    def test_entities_are_not_expanded(self, path: Path) -> None:
        secret = path.with_name("secret")
        secret.write_text("Cu")
        head, rest = path.read_text().split("<modeling>", 1)
        entity = f'<!DOCTYPE modeling [<!ENTITY x SYSTEM "file://{secret}">]>'
        path.write_text(f"{head}{entity}\n<modeling>{rest.replace('<c>O </c>', '<c>&x;</c>')}")
        items = read_all(self.source(path))
        assert all(29 not in record.numbers for record in good(items))

    def test_units_named_beside_a_format_that_has_them_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="fixes the units"):
            check_units(SourceSettings("x", "vasp", energy_unit=EnergyUnit.HARTREE))


def real(folder: Path, name: str, members: str) -> SourceSettings:
    options = validate_options("vasp", {"members": members, "energy": "sigma->0"})
    return SourceSettings("vasp", "vasp", (str(folder / "vasp" / name),), options)


@pytest.mark.parametrize("name", ["parse-vasp-no-magmoms.zip", "parse-vasp-with-magmoms.zip"])
@pytest.mark.parametrize(("file", "form"), [("vasprun.xml", "vasp-xml"), ("OUTCAR", "vasp-out")])
def test_real_results_are_what_ase_reads(real_data: Path, tmp_path: Path, name: str, file: str, form: str) -> None:
    with zipfile.ZipFile(real_data / "vasp" / name) as packed:
        (member,) = [m for m in packed.namelist() if m.endswith(file)]
        packed.extract(member, tmp_path)
    expected = list(iread(tmp_path / member, index=":", format=form))
    items = read_all(real(real_data, name, f"*/{file}"))
    assert bad(items) == []
    assert len(items) == len(expected)
    for record, atoms in zip(good(items), expected, strict=True):
        assert record.file.endswith(f"{name}::{member}")
        np.testing.assert_array_equal(record.numbers, atoms.numbers)
        np.testing.assert_allclose(record.pos, atoms.positions, atol=1e-6)
        np.testing.assert_allclose(record.cell, atoms.cell.array, atol=1e-10)
        np.testing.assert_allclose(record.forces, atoms.calc.results["forces"], atol=1e-10)
        assert record.energy == pytest.approx(atoms.calc.results["energy"], abs=1e-8)
        assert record.pbc.all()


def test_a_real_run_is_the_same_in_both_files(real_data: Path) -> None:
    name = "parse-vasp-no-magmoms.zip"
    xml, outcar = (good(read_all(real(real_data, name, f"*/{f}"))) for f in ("vasprun.xml", "OUTCAR"))
    assert len(xml) == len(outcar) == 49
    np.testing.assert_allclose([r.energy for r in xml], [r.energy for r in outcar], atol=1e-5)
    np.testing.assert_allclose([r.forces for r in xml], [r.forces for r in outcar], atol=1e-5)


def test_a_run_that_was_killed_gives_its_finished_steps(real_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(real_data / "vasp" / "parse-vasp-no-magmoms.zip") as packed:
        for file in ("vasprun.xml", "OUTCAR"):
            text = packed.read(f"parse-vasp-no-magmoms/{file}")
            (tmp_path / file).write_bytes(text[: len(text) // 2])
            items = read_all(SourceSettings("x", "vasp", (str(tmp_path / file),)))
            (broken,) = bad(items)
            assert 10 < broken.index == len(items) - 1


def test_other_members_are_named(real_data: Path) -> None:
    items = bad(read_all(real(real_data, "parse-vasp-no-magmoms.zip", "*/INCAR")))
    assert "neither a vasprun.xml nor an OUTCAR: set the option members" in items[0].reason
