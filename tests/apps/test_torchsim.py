"""torch-sim with an ensemble: its own check of models, and the numbers of ASE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from deploy_cases import EMT_BUNDLE, ensemble_of, random_potential

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.core.errors import ModelError

ts = pytest.importorskip("torch_sim", reason="torch-sim (the extra torch-sim) is not installed")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402 - of the extra

from gfm_pipeline.apps.deploy.torchsim import GFMTorchSimModel  # noqa: E402 - of the extra

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_model_passes_the_validation_of_torch_sim(dtype: torch.dtype) -> None:
    members = [random_potential(seed) for seed in (0, 1)]
    model = GFMTorchSimModel(ensemble_of({"Si": -5.0, "Fe": -8.0}, members), dtype=dtype)
    validate_model_outputs(model, CPU, dtype)


def test_systems_have_the_numbers_of_ase_and_the_spread() -> None:
    model, calculator = GFMTorchSimModel(EMT_BUNDLE), GFMCalculator(EMT_BUNDLE)
    systems = [bulk("Cu", cubic=True), bulk("Cu").repeat(2)]
    for number, atoms in enumerate(systems):
        atoms.rattle(0.05, seed=number)
        atoms.set_cell(atoms.cell.array @ [[1.0, 0.02, 0.0], [0.0, 1.0, 0.01], [0.03, 0.0, 1.0]], scale_atoms=True)
    found = model(ts.io.atoms_to_state(systems, CPU, torch.float64))
    for number, atoms in enumerate(systems):
        of_atoms = slice(0, 4) if number == 0 else slice(4, 12)
        atoms.calc = calculator
        stress = atoms.get_stress(voigt=False)
        expected = calculator.results
        assert float(found["energy"][number]) == pytest.approx(expected["energy"], abs=1e-9)
        assert float(found["energy_std"][number]) == pytest.approx(expected["energy_std"], abs=1e-9)
        np.testing.assert_allclose(found["forces"][of_atoms], expected["forces"], atol=1e-9)
        np.testing.assert_allclose(found["forces_interval"][of_atoms], expected["forces_interval"], atol=1e-9)
        np.testing.assert_allclose(found["stress"][number], stress, atol=1e-9)


def test_a_molecule_moves_as_in_ase() -> None:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=2)
    atoms.cell = [20.0, 20.0, 20.0]
    state = ts.io.atoms_to_state([atoms], CPU, torch.float64)
    model = GFMTorchSimModel(EMT_BUNDLE)
    state.pbc = False
    time_step = 0.5 * units.fs  # of ASE: Angstrom sqrt(u/eV), as torch-sim's metal units have it
    none = torch.tensor(0.0, dtype=torch.float64)
    init, step = ts.nve(model=model, dt=torch.tensor(time_step, dtype=torch.float64), kT=none)
    moving = init(state)
    moving.momenta = torch.zeros_like(moving.positions)
    for _ in range(10):
        moving = step(moving)
    atoms.calc = GFMCalculator(EMT_BUNDLE)
    VelocityVerlet(atoms, time_step).run(10)
    np.testing.assert_allclose(moving.positions, atoms.positions, atol=1e-5)
    with pytest.raises(ModelError, match="holds no He"):
        model(ts.io.atoms_to_state([bulk("He", "fcc", a=4.0)], CPU, torch.float64))
