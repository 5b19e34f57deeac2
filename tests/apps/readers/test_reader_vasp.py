"""vasprun.xml and OUTCAR: a document of the documented layout, and results of real runs inside their archives."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import units
from ase.io import iread
from conformance import N_RECORDS, Conformance, Expected, bad, good, read_all

from gfm_pipeline.apps.ingest.checks.label_shapes import as_declared
from gfm_pipeline.apps.ingest.records import PassedOver
from gfm_pipeline.core.contracts.data import EnergyUnit, SourceSettings
from gfm_pipeline.core.contracts.sources import check_units, validate_options
from gfm_pipeline.core.contracts.targets import MAGMOMS, STRESS
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

    def test_the_keys_of_a_vasprun_are_listed(self, path: Path) -> None:
        (keys,) = {record.keys for record in good(read_all(self.source(path)))}
        assert keys is not None
        assert (keys.energy, keys.forces) == ("e_fr_energy", "forces")
        assert {key.name for key in keys.keys} >= {"e_fr_energy", "forces"}

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
    return SourceSettings("vasp", "vasp", (str(folder / "vasp" / name),), options, targets=(STRESS, MAGMOMS))


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
        stress = as_declared(STRESS, record.labels["stress"], len(atoms))
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-8)
        magmoms = atoms.calc.results.get("magmoms") if file == "OUTCAR" else None
        assert ("magmoms" in record.labels) is (magmoms is not None)
        np.testing.assert_array_equal(record.labels.get("magmoms", magmoms), magmoms)


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
    assert "is not a vasprun.xml, OUTCAR, ML_AB or vaspout.h5: set members" in items[0].reason


def electronic(step: int, n: int) -> str:
    return "".join(f"{'-' * 39} Iteration {step:6d}({k:4d})  {'-' * 39}\n" for k in range(1, n + 1))


def ionic(energy: float, ml: str = "", columns: str = "", more: str = "") -> str:
    """Return the end of an ionic step of an OUTCAR; ``ml`` marks a block of the force field."""
    mark = " (ML)" if ml else ""
    return (
        " VOLUME and BASIS-vectors are now :\n"
        "      direct lattice vectors                 reciprocal lattice vectors\n"
        "  8.0 0.0 0.0 0.125 0.0 0.0\n  0.0 8.0 0.0 0.0 0.125 0.0\n  0.0 0.0 8.0 0.0 0.0 0.125\n\n"
        f" POSITION                                       TOTAL-FORCE (eV/Angst){mark}{columns}\n {'-' * 83}\n"
        f"  1.0 1.0 1.0  0.1 0.2 {energy / 100:.6f}{more}\n  1.0 1.0 1.8  -0.1 -0.2 {-energy / 100:.6f}{more}\n"
        f" {'-' * 83}\n    total drift:      0.0 0.0 0.0\n\n"
        f"  {'ML ' if ml else ''}FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  {'-' * 51}\n"
        f"  free  energy   {'ML ' if ml else ''}TOTEN  = {energy:18.8f} eV\n\n"
        f"  energy  without entropy= {energy:17.8f}  energy(sigma->0) = {energy:17.8f}\n\n"
    )


def outcar(path: Path, steps: str, nelm: int = 15) -> SourceSettings:
    head = (
        " vasp.5.4.4.18Apr17-6-g9f103f2a35\n POTCAR:    PAW_PBE H 15Jun2001\n POTCAR:    PAW_PBE H 15Jun2001\n"
        "   ions per type =               2\n   ISPIN  =      1    spin polarized calculation?\n"
        f"   NELM   = {nelm:6d};   NELMIN=  2; NELMDL= -5     # of ELM steps\n"
    )
    path.write_text(f"{head}{steps} General timing and accounting informations for this job:\n")
    return SourceSettings("x", "vasp", (str(path),))


def test_steps_that_ran_to_nelm_did_not_converge_whatever_vasp_5_says(tmp_path: Path) -> None:
    """VASP 5 says that EDIFF is reached at the last electronic step that is allowed, too."""
    reached = f"{'-' * 24} aborting loop because EDIFF is reached {'-' * 40}\n"
    steps = "".join(electronic(k, n) + reached + ionic(-6.0 - k) for k, n in ((1, 15), (2, 9), (3, 15), (4, 14)))
    items = read_all(outcar(tmp_path / "OUTCAR", steps))
    assert [item.index for item in bad(items)] == [0, 2]
    assert {item.reason for item in bad(items)} == {"the electronic steps did not converge"}
    assert [record.energy for record in good(items)] == [-8.0, -10.0]


def test_the_first_step_counts_as_many_electronic_steps_as_it_has(tmp_path: Path) -> None:
    items = read_all(outcar(tmp_path / "OUTCAR", electronic(1, 2) + ionic(-6.0) + electronic(2, 1) + ionic(-7.0), 2))
    assert [item.index for item in bad(items)] == [0]


def test_steps_of_the_force_field_of_vasp_are_passed_over(tmp_path: Path) -> None:
    """Beside every step of DFT stands what the force field says of it; most steps have the latter only."""
    steps = electronic(1, 8) + ionic(-6.0) + ionic(-6.1, "ml") + ionic(-6.2, "ml") + electronic(4, 7) + ionic(-6.3)
    items = read_all(outcar(tmp_path / "OUTCAR", steps))
    assert [record.energy for record in good(items)] == [-6.0, -6.3]
    assert bad(items) == []
    over = [item for item in items if isinstance(item, PassedOver)]
    assert [item.index for item in over] == [1, 2]
    assert "machine-learned force field" in over[0].reason


def test_forces_are_the_first_of_several_columns(tmp_path: Path) -> None:
    """Some builds write the forces without dispersion beside the total ones."""
    steps = electronic(1, 8) + ionic(-6.0, columns="      w/o vdW", more="  9.0 9.0 9.0")
    (record,) = good(read_all(outcar(tmp_path / "OUTCAR", steps)))
    assert record.forces is not None
    np.testing.assert_allclose(record.forces[0], [0.1, 0.2, -0.06])
    assert record.keys is not None
    assert [(key.name, key.shape) for key in record.keys.keys if key.name == "w/o vdW"] == [("w/o vdW", "[N, 3]")]
    assert record.keys.forces == "forces"


def test_learned_steps_of_a_vasprun_are_passed_over(tmp_path: Path) -> None:
    path = TestVasprun().write(tmp_path, Expected())
    head, first, *others = path.read_text().split("<calculation>")
    head = head.replace("<parameters>", '<incar><i type="logical" name="ML_LMLFF"> T  </i></incar><parameters>')
    electronic_step = first[: first.rindex("</scstep>") + len("</scstep>")]
    path.write_text("<calculation>".join([head, first[len(electronic_step) :], *others]))
    items = read_all(SourceSettings("x", "vasp", (str(path),)))
    assert [type(item) is PassedOver for item in items] == [True] + [False] * len(others)
    assert len(good(items)) == len(others)


class TestMlAb(Conformance):
    reader = "vasp"
    in_archives = True

    def write(self, folder: Path, expected: Expected) -> Path:
        def section(title: str, *values: str, end: str = "=") -> str:
            return "\n".join((f"     {title}", "-" * 50, *(f"  {value}" for value in values), end * 50, ""))

        def rows(array: Any) -> list[str]:
            return [" ".join(f"{x:.16f}" for x in row) for row in array]

        text = f" 1.0 Version\n{'*' * 50}\n" + section("The number of configurations", str(N_RECORDS), end="*")
        text += section("The atom types in the data file", "O H", "C", end="*")
        for k in range(N_RECORDS):
            text += f"     Configuration num. {k + 1:6d}\n{'=' * 50}\n" + section("System name", "water and carbon")
            text += section("The number of atoms", "4", end="*")
            text += section("Atom types and atom numbers", "O 1", "H 2", "C 1") + section("CTIFOR", "2.0E-03")
            text += section("Primitive lattice vectors (ang.)", *rows(expected.cell))
            text += section("Atomic positions (ang.)", *rows(expected.pos[k]))
            text += section("Total energy (eV)", f"{expected.energy[k]:.16f}")
            text += section("Forces (eV ang.^-1)", *rows(expected.forces[k]))
            text += f"     Stress (kbar)\n{'-' * 50}\n     XX YY ZZ\n{'-' * 50}\n" + "0.1 0.2 0.3\n" + "*" * 50 + "\n"
        (folder / "ML_AB").write_text(text)
        return folder / "ML_AB"

    def spoil(self, path: Path, index: int) -> None:
        pieces = path.read_text().split("Total energy (eV)")
        pieces[index + 1] = pieces[index + 1].replace(".", "x", 1)
        path.write_text("Total energy (eV)".join(pieces))

    def test_the_keys_of_a_configuration_are_listed(self, path: Path) -> None:
        (keys,) = {record.keys for record in good(read_all(self.source(path)))}
        assert keys is not None
        assert {"energy", "forces", "system"} == {key.name for key in keys.keys}

    def test_configurations_that_are_missing_are_counted(self, path: Path) -> None:
        path.write_text(path.read_text().partition("     Configuration num.      4")[0])
        items = read_all(self.source(path))
        assert (len(good(items)), len(bad(items))) == (3, N_RECORDS - 3)


class TestVaspout(Conformance):
    reader = "vasp"
    # No `spoil`: steps share arrays.

    def write(self, folder: Path, expected: Expected) -> Path:
        with h5py.File(folder / "vaspout.h5", "w") as file:
            atoms, steps = file.create_group("results/positions"), file.create_group("intermediate/ion_dynamics")
            atoms["ion_types"], atoms["number_ion_types"] = np.array([b"O ", b"H ", b"C "]), np.array([1, 2, 1])
            atoms["scale"] = 2.0
            steps["lattice_vectors"] = np.tile(expected.cell / 2.0, (N_RECORDS, 1, 1))
            steps["position_ions"] = expected.pos @ np.linalg.inv(expected.cell)
            steps["forces"] = expected.forces
            steps["energies"] = np.stack([expected.energy, expected.energy - 1, expected.energy + 1], axis=1)
            steps["energies_tags"] = np.array(
                [b"free energy    TOTEN  ", b"energy without entropy", b"energy(sigma->0)"]
            )
        return folder / "vaspout.h5"

    def cut(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-500])

    def test_the_energy_may_be_that_without_smearing(self, path: Path, expected: Expected) -> None:
        records = good(read_all(self.source(path, options={"energy": "sigma->0"})))
        np.testing.assert_allclose([r.energy for r in records], expected.energy + 1)
