"""mace-torch and nequip by the interface of energies, where they are installed; nothing here knows which it is."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from brute import batch, loss_of
from foreign_packages import OPTIONS, own_results, skip_unless_installed
from model_cases import CUTOFF, crossing, crystal, molecule, predict, rotation

from gfm_pipeline.models import ModelSpec, Potential

pytestmark = pytest.mark.filterwarnings("ignore")  # of packages of their own age


@pytest.fixture(scope="module", params=OPTIONS)
def model(request) -> Potential:
    skip_unless_installed(request.param)
    torch.manual_seed(0)
    spec = ModelSpec(request.param, 8, 2, CUTOFF, elements=(1, 6, 8, 13, 29, 47, 79), n_datasets=3, avg_neighbours=9.0)
    made = Potential(replace(spec, options=OPTIONS[request.param]))
    assert torch.get_default_dtype() == torch.float32
    return made.double()


@pytest.mark.parametrize("structure", [molecule(), crystal()], ids=["molecule", "crystal"])
def test_its_numbers_are_those_of_the_package(model, structure) -> None:
    """The package reads the structure itself, finds the neighbours itself, and takes the derivatives itself."""
    head = model.node_energy
    with torch.no_grad():
        head.scale.copy_(torch.tensor([0.5, 1.5, 2.5]))
        head.shift.copy_(torch.tensor([0.1, -0.2, 0.3]))
    ours = model(batch([structure], CUTOFF), stress=structure.cell is not None)
    pbc = structure.cell is not None
    own = own_results(model, Atoms(numbers=structure.z, positions=structure.pos, cell=structure.cell, pbc=pbc))
    unit, scale, shift = (
        model.spec.force_rms,
        head.scale[structure.dataset].item(),
        head.shift[structure.dataset].item(),
    )
    expected = unit * (scale * own["energy"] + shift * len(structure.z))
    assert abs(own["energy"]) > 1e-3
    assert ours.energy.item() == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(ours.forces.numpy(), unit * scale * own["forces"], atol=1e-6)
    if pbc:
        stress = ours.values["stress"].numpy()[0].ravel()[[0, 4, 8, 5, 2, 1]]
        np.testing.assert_allclose(stress, unit * scale * own["stress"], atol=1e-7)


def test_it_turns_and_adds(model) -> None:
    q = rotation(3, reflect=True)
    for s in (molecule(), crystal()):
        turned = replace(s, pos=s.pos @ q.T, cell=None if s.cell is None else s.cell @ q.T)
        (e0, f0), (e1, f1) = predict(model, s), predict(model, turned)
        np.testing.assert_allclose(e1, e0, atol=1e-6)
        np.testing.assert_allclose(f1, f0 @ q.T, atol=1e-6)
    together, _ = predict(model, molecule(), crystal())
    np.testing.assert_allclose(together, [predict(model, s)[0][0] for s in (molecule(), crystal())], atol=1e-10)


def test_its_forces_are_gradients_and_its_energies_do_not_jump(model) -> None:
    s, h = molecule(9), 1e-4
    _, force = predict(model, s)
    ends = []
    for sign in (1, -1):
        pos = s.pos.copy()
        pos[2, 1] += sign * h
        ends.append(predict(model, replace(s, pos=pos))[0][0])
    assert (ends[1] - ends[0]) / (2 * h) == pytest.approx(force[2, 1], abs=1e-6)
    inside, outside = (predict(model, s) for s in crossing(False, np.array([CUTOFF - 1e-6, CUTOFF + 1e-6])))
    np.testing.assert_allclose(inside[0], outside[0], atol=1e-9)


def test_every_parameter_receives_a_gradient(model) -> None:
    data = batch([replace(molecule(k, dataset=k), energy=1.0, forces=np.ones((7, 3))) for k in range(3)], CUTOFF)
    parameters = dict(model.named_parameters())
    loss_of(model, data).total.backward(inputs=list(parameters.values()))
    assert [name for name, p in parameters.items() if p.grad is None] == []


def test_a_copy_predicts_the_same(model) -> None:
    """Calculators and exports copy models."""
    (energy, forces), (again, others) = predict(model, molecule()), predict(deepcopy(model), molecule())
    np.testing.assert_array_equal(again, energy)
    np.testing.assert_array_equal(others, forces)
