"""Stresses and virials: units, both signs, and labels that do not belong to the energies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ingest_cases import run_read

from gfm_pipeline.apps.ingest.assembly.shard import read_shard
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.targets import DIPOLE, STRESS
from gfm_pipeline.core.contracts.units import label_unit
from gfm_pipeline.core.errors import Refused


@pytest.fixture(scope="module")
def cells() -> list[Atoms]:
    """Copper, strained at random and a little displaced, with the stress of a potential."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(30):
        atoms = bulk("Cu", cubic=True)
        strain = rng.normal(scale=0.02, size=(3, 3)) + rng.normal(scale=0.01) * np.eye(3)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.02, size=(4, 3)) + rng.integers(-2, 3, (4, 3)) @ atoms.cell.array
        atoms.calc = EMT()
        frames.append(atoms)
    return frames


def read(folder: Path, cells: list[Atoms], key: str, factor: float | str, unit: str | None) -> tuple[tuple, np.ndarray]:
    """Write stresses times a factor, or virials, under a key, and return what ingest warns of and reads."""
    frames = []
    for atoms in cells:
        known, stress = Atoms(atoms), atoms.get_stress(voigt=False)
        known.calc = SinglePointCalculator(known, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        known.info[key] = stress * (-atoms.get_volume() if factor == "virial" else factor)
        frames.append(known)
    write(folder / "x.extxyz", frames)
    labels = None if key == "virial" else {"stress": key}
    source = SourceSettings("s", "ase", (str(folder / "x.extxyz"),), group_key="@file", targets=(STRESS,))
    stated = None if unit is None else {"stress": unit}
    (result,) = run_read(folder / "w", replace(source, labels=labels, label_units=stated))
    shard, _ = read_shard(Path(result.output))
    return tuple(w for w in result.warnings if "tress" in w), shard.labels_of(STRESS)


@pytest.mark.parametrize(
    ("key", "factor", "unit"),
    [
        ("dft_stress", 1.0, None),
        ("pressure_tensor", -10.0 / units.GPa, "-kbar"),
        ("virial", "virial", None),  # named so, it is minus the stress times the volume
        ("w", "virial", "-eV"),
    ],
)
def test_every_convention_is_read_as_the_same_stress(tmp_path, cells, key, factor, unit):
    warned, read_back = read(tmp_path, cells, key, factor, unit)
    assert warned == ()
    expected = np.stack([atoms.get_stress(voigt=False) for atoms in cells])
    np.testing.assert_allclose(read_back, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("factor", "unit", "sentence"),
    [
        (-1.0, None, "sign of the stress is turned"),
        (-10.0 / units.GPa, "kbar", "minus sign before its unit"),
        (1.0 / units.GPa, None, "as if the stress were in GPa where eV/Angstrom^3 was said"),
        (1.0 / units.GPa, "kbar", "as if the stress were in GPa where kbar was said"),
        ("virial", None, "as if the label were a virial"),
    ],
)
def test_a_wrong_sign_or_unit_is_found_by_the_energies(tmp_path, cells, factor, unit, sentence):
    (warned,), _ = read(tmp_path, cells, "dft_stress", factor, unit)
    assert sentence in warned


def test_a_virial_without_a_volume_is_a_missing_label(tmp_path):
    frames = []
    for k in range(3):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=k)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((3, 3)))
        atoms.info["virial"] = np.zeros((3, 3))
        frames.append(atoms)
    write(tmp_path / "x.extxyz", frames)
    source = SourceSettings("s", "ase", (str(tmp_path / "x.extxyz"),), group_key="@file", targets=(STRESS,))
    (result,) = run_read(tmp_path / "w", source)
    assert (result.n_records, result.n_quarantined) == (3, 0)
    assert np.isnan(read_shard(Path(result.output))[0].labels_of(STRESS)).all()


def test_units_that_are_no_stress_are_refused():
    assert (label_unit("-kJ", STRESS).per_volume, label_unit("-kJ", STRESS).factor < 0) == (True, True)
    with pytest.raises(Refused, match="measures length"):
        label_unit("-Angstrom", STRESS)
    with pytest.raises(Refused, match="measures energy"):
        label_unit("eV", DIPOLE)
