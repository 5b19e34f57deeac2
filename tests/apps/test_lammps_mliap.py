"""LAMMPS with an ensemble as a pair style of ML-IAP: the numbers of ASE, and what is refused."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from deploy_cases import EMT_BUNDLE
from lammps_cases import CLOSE, check_relaxation, check_run, copper, lammps_of, water

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.deploy.batches import Neighbours
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.lammps_fix import lammps_with_mpi
from gfm_pipeline.apps.deploy.lammps_mliap import MLIAPPotential
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.errors import ModelError

CASES = pytest.mark.parametrize(("make", "elements"), [(copper, ["Cu"]), (water, ["O", "H"])])


def _has_mliap() -> bool:
    try:
        lmp = lammps_with_mpi()
        import lammps.mliap

        lammps.mliap.activate_mliappy(lmp)
    except (ModelError, ImportError, OSError, AttributeError):
        return False
    return True


@pytest.fixture(scope="module")
def mliap() -> None:
    if not _has_mliap():
        pytest.skip("this LAMMPS was not built with ML-IAP for Python (docs/deploy.md says how)")


@CASES
def test_edges_of_another_program_give_the_same_forces(make: Callable[[], Atoms], elements: list[str]) -> None:
    predictor = Predictor(open_ensemble(EMT_BUNDLE))
    atoms = make()
    (expected,) = predictor.predict([atoms])
    wide = Neighbours.of(atoms, predictor.cutoff + 0.7)  # what is beyond the cutoff has no effect
    (found,) = predictor.predict([atoms], neighbours=[wide])
    assert found["energy"] == pytest.approx(expected["energy"], abs=1e-9)
    np.testing.assert_allclose(found["forces_std"], expected["forces_std"], atol=1e-9)
    slopes = found["by_edge"]
    assert slopes.shape == wide.shift.shape
    assert not slopes[wide.lengths(atoms.positions) > predictor.cutoff].any()
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, wide.src, slopes)
    np.add.at(forces, wide.dst, -slopes)
    np.testing.assert_allclose(forces, expected["forces"], atol=1e-9)


@pytest.mark.usefixtures("mliap")
@CASES
def test_a_run_at_constant_energy_gives_the_numbers_of_ase(make: Callable[[], Atoms], elements: list[str]) -> None:
    atoms, rng = make(), np.random.default_rng(1)
    atoms.set_velocities(rng.normal(0.0, 0.01, (len(atoms), 3)))
    lmp = lammps_of(
        atoms,
        elements,
        "timestep 0.001",
        "fix move all nve",
        "fix s all property/atom d_forces_std",
        "variable gfm_energy_std internal 0.0",
        "compute e all pe/atom",
        "compute sum all reduce sum c_e",
    )
    MLIAPPotential(lmp, EMT_BUNDLE, elements)
    lmp.command("thermo_style custom step pe ke press c_sum v_gfm_energy_std")
    lmp.command("run 30")
    atoms.calc = GFMCalculator(EMT_BUNDLE)
    check_run(lmp, atoms)
    results = atoms.calc.results
    assert lmp.extract_compute("sum", 0, 0) == pytest.approx(results["energy"], abs=CLOSE)
    assert lmp.extract_variable("gfm_energy_std") == pytest.approx(results["energy_std"], abs=CLOSE)


@pytest.mark.usefixtures("mliap")
@CASES
def test_a_relaxation_ends_where_that_of_ase_does(make: Callable[[], Atoms], elements: list[str]) -> None:
    atoms = make()
    lmp = lammps_of(atoms, elements, "min_style cg")
    MLIAPPotential(lmp, EMT_BUNDLE, elements)
    lmp.command("minimize 0.0 1e-5 200 2000")
    atoms.calc = GFMCalculator(EMT_BUNDLE)
    check_relaxation(lmp, atoms)


@pytest.mark.usefixtures("mliap")
def test_a_skewed_box_in_units_real_has_the_stress_of_ase() -> None:
    atoms = bulk("Cu") * (2, 2, 2)
    atoms.rattle(0.1, seed=2)
    atoms.set_cell([[5.2, 0.0, 0.0], [0.6, 5.0, 0.0], [-0.4, 0.3, 5.4]], scale_atoms=True)
    lmp = lammps_of(
        atoms,
        ["Cu"],
        "variable gfm_distance internal 0.0",
        "compute v all stress/atom NULL virial",
        "compute sum all reduce sum c_v[*]",
        style="real",
    )
    potential = MLIAPPotential(lmp, EMT_BUNDLE, ["Cu"])
    lmp.command("thermo_style custom pe pxx pyy pzz pxy pxz pyz c_sum[1]")
    lmp.command("run 0")
    atoms.calc = GFMCalculator(EMT_BUNDLE)
    assert lmp.get_thermo("pe") * units.kcal / units.mol == pytest.approx(atoms.get_potential_energy(), abs=CLOSE)
    pressure = np.array([lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")])
    np.testing.assert_allclose(pressure * 1.01325 * units.bar, -atoms.get_stress(), atol=CLOSE)
    of_sum = np.array(lmp.extract_compute("sum", 0, 1)[:6])[[0, 1, 2, 5, 4, 3]]  # minus pressure times volume
    np.testing.assert_allclose(of_sum, -pressure * atoms.get_volume(), atol=1e-3)
    distance = potential.results.get("distance", np.nan)
    assert lmp.extract_variable("gfm_distance") == pytest.approx(distance, nan_ok=True)


@pytest.mark.usefixtures("mliap")
def test_the_input_of_the_page_runs_as_it_stands() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    (block,) = re.findall(r"((?:    .*\n)*    python gfm input .*\n(?:    .*\n)+)", page)
    atoms = copper()
    lmp = lammps_of(atoms, ["Cu"])
    lmp.commands_string(textwrap.dedent(block).replace("model.gfm", str(EMT_BUNDLE)))
    lmp.command("run 0")
    calculator = GFMCalculator(EMT_BUNDLE)
    assert lmp.get_thermo("pe") == pytest.approx(calculator.get_potential_energy(atoms), abs=CLOSE)
    assert lmp.extract_variable("gfm_energy_std") == pytest.approx(calculator.results["energy_std"], abs=CLOSE)


@pytest.mark.usefixtures("mliap")
def test_a_fault_ends_the_run_by_a_sentence() -> None:
    close = Atoms("Cu2", [[0.0, 0.0, 0.0], [0.0, 0.0, 1e-5]])
    lmp = lammps_of(close, ["Cu"])
    potential = MLIAPPotential(lmp, EMT_BUNDLE, ["Cu"])
    with pytest.raises(ModelError, match="are at one place"):
        lmp.command("run 5")
    assert isinstance(potential.failure, ModelError)


@pytest.mark.usefixtures("mliap")
def test_what_lammps_cannot_be_served_is_refused() -> None:
    atoms = copper()
    with pytest.raises(ModelError, match="has 1 atom types, and 2 elements are named"):
        MLIAPPotential(lammps_of(atoms, ["Cu"]), EMT_BUNDLE, ["Cu", "O"])
    lmp = lammps_of(water(), ["O", "H"])
    MLIAPPotential(lmp, EMT_BUNDLE, ["O", "H"], pair_style=False)
    lmp.command("pair_style hybrid/overlay mliap unified EXISTS zero 4.0")
    lmp.command("pair_coeff * * mliap O NULL")
    lmp.command("pair_coeff * * zero")
    with pytest.raises(ModelError, match="The pair style has not all atoms"):
        lmp.command("run 0")


def test_ranks_kokkos_and_a_lammps_without_the_interface_are_refused() -> None:
    def lammps(**settings: int) -> SimpleNamespace:
        known = {"world_size": 1, "ntypes": 1, "kokkos_active": 0, **settings}
        return SimpleNamespace(
            extract_setting=known.__getitem__, extract_global=lambda name: "metal", opened=1, lib=SimpleNamespace()
        )

    with pytest.raises(ModelError, match="runs on 4 MPI ranks, and message passing needs all atoms on one"):
        MLIAPPotential(lammps(world_size=4), EMT_BUNDLE, ["Cu"])
    with pytest.raises(ModelError, match="runs with Kokkos"):
        MLIAPPotential(lammps(kokkos_active=1), EMT_BUNDLE, ["Cu"])
    with pytest.raises(ModelError, match="This LAMMPS has no ML-IAP for Python"):
        MLIAPPotential(lammps(), EMT_BUNDLE, ["Cu"])
