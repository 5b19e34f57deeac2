"""What must hold for every registered architecture, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import Structure, batch, loss_of
from model_cases import CUTOFF, conservative, crossing, crystal, every, make, molecule, predict, rotation

pytestmark = pytest.mark.usefixtures("one_thread")


@every
@pytest.mark.parametrize("reflect", [False, True])
def test_rotation_and_reflection(name, head, reflect):
    model, q = make(name, head), rotation(3, reflect=reflect)
    for s in (molecule(), crystal()):
        turned = replace(s, pos=s.pos @ q.T, cell=None if s.cell is None else s.cell @ q.T)
        e0, f0 = predict(model, s)
        e1, f1 = predict(model, turned)
        assert np.abs(f0).max() > 1e-2
        np.testing.assert_allclose(e1, e0, atol=1e-11)
        np.testing.assert_allclose(f1, f0 @ q.T, atol=1e-10)


@every
def test_translation(name, head):
    model = make(name, head)
    for s in (molecule(), crystal()):
        e0, f0 = predict(model, s)
        e1, f1 = predict(model, replace(s, pos=s.pos + np.array([13.1, -7.3, 2.9])))
        np.testing.assert_allclose(e1, e0, atol=1e-11)
        np.testing.assert_allclose(f1, f0, atol=1e-10)


@every
def test_permutation_of_atoms_and_of_structures(name, head):
    model, a, b = make(name, head), molecule(1), crystal(2)
    e, f = predict(model, a, b)
    order = np.random.default_rng(5).permutation(len(a.z))
    e1, f1 = predict(model, b, replace(a, z=a.z[order], pos=a.pos[order]))
    np.testing.assert_allclose(e1, e[::-1], atol=1e-11)
    np.testing.assert_allclose(f1[len(b.z) :], f[: len(a.z)][order], atol=1e-10)
    np.testing.assert_allclose(f1[: len(b.z)], f[len(a.z) :], atol=1e-10)


@every
def test_moving_an_atom_by_a_lattice_vector_changes_nothing(name, head):
    model, s = make(name, head), crystal(4)
    moved = s.pos.copy()
    moved[2] += 2 * s.cell[0] - s.cell[1]
    e0, f0 = predict(model, s)
    e1, f1 = predict(model, replace(s, pos=moved))
    np.testing.assert_allclose(e1, e0, atol=1e-11)
    np.testing.assert_allclose(f1, f0, atol=1e-10)


@every
def test_a_supercell_has_the_energy_of_its_cells(name, head):
    model, s = make(name, head), crystal(6)
    double = replace(
        s, z=np.tile(s.z, 2), pos=np.concatenate([s.pos, s.pos + s.cell[0]]), cell=s.cell * [[2], [1], [1]]
    )
    e, f = predict(model, s, double)
    np.testing.assert_allclose(e[1], 2 * e[0], atol=1e-10)
    np.testing.assert_allclose(f[4:], np.tile(f[:4], (2, 1)), atol=1e-10)


@every
def test_two_far_copies_have_twice_the_energy(name, head):
    model, s = make(name, head), molecule(7)
    both = replace(s, z=np.tile(s.z, 2), pos=np.concatenate([s.pos, s.pos + np.array([50.0, 0, 0])]))
    e, f = predict(model, s, both)
    np.testing.assert_allclose(e[1], 2 * e[0], atol=1e-10)
    np.testing.assert_allclose(f[7:], np.tile(f[:7], (2, 1)), atol=1e-10)


@every
@pytest.mark.parametrize("last_neighbour", [False, True])
def test_energy_and_forces_are_smooth_at_the_cutoff(name, head, last_neighbour):
    model = make(name, head)
    h = 1e-4
    distances = CUTOFF + h * np.arange(-20, 21)
    out = [predict(model, s) for s in crossing(last_neighbour, distances)]
    energy = np.array([e[0] for e, _ in out])
    force = np.array([f for _, f in out])
    # C2: the energy's curvature and the force's slope run linearly to zero at the cutoff; a cosine cutoff would
    # leave them at their value inside, a sharp one at 1/h or more
    curvature, slope = np.abs(np.diff(energy, 2) / h**2), np.abs(np.diff(force, axis=0) / h)
    assert curvature.max() < 5.0
    assert slope.max() < 5.0
    assert curvature[18:22].max() < 0.15 * curvature.max() + 1e-4
    assert slope[18:22].max() < 0.15 * slope.max() + 1e-4
    # and the neighbour's own force is exactly zero outside
    np.testing.assert_allclose(force[21:, -1], 0.0, atol=1e-14)
    np.testing.assert_allclose(energy[21:], energy[-1], atol=1e-12)
    tiny = [predict(model, s) for s in crossing(last_neighbour, np.array([CUTOFF - 1e-7, CUTOFF + 1e-7]))]
    np.testing.assert_allclose(tiny[0][0], tiny[1][0], atol=1e-12)
    np.testing.assert_allclose(tiny[0][1], tiny[1][1], atol=1e-10)


@conservative
def test_a_neighbour_inside_the_cutoff_does_matter(name):
    model = make(name)
    energies = [predict(model, s)[0][0] for s in crossing(False, np.array([1.4, 2.0, CUTOFF + 1.0]))]
    assert np.abs(np.diff(energies)).min() > 1e-3


@conservative
def test_forces_are_minus_the_gradient_of_the_energy(name):
    model, h = make(name), 1e-4
    for s in (molecule(9), crystal(10)):
        _, force = predict(model, s)
        for atom in (0, len(s.z) - 1):
            for axis in range(3):
                energy = []
                for k in (-2, -1, 1, 2):
                    pos = s.pos.copy()
                    pos[atom, axis] += k * h
                    energy.append(predict(model, replace(s, pos=pos))[0][0])
                slope = (energy[0] - 8 * energy[1] + 8 * energy[2] - energy[3]) / (12 * h)
                assert -slope == pytest.approx(force[atom, axis], abs=1e-7)
        np.testing.assert_allclose(force.sum(0), 0.0, atol=1e-11)


@every
def test_every_parameter_receives_a_gradient(name, head):
    model = make(name, head)
    structures = [replace(molecule(k), dataset=k) for k in range(3)] + [crystal(k, dataset=k) for k in range(3)]
    rng = np.random.default_rng(0)
    labelled = [replace(s, energy=rng.normal(), forces=rng.normal(size=s.pos.shape)) for s in structures]
    data = batch(labelled, CUTOFF)
    parameters = dict(model.named_parameters())
    loss = loss_of(model, data)
    loss.total.backward(inputs=list(parameters.values()))
    idle = [k for k, p in parameters.items() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []


@conservative
def test_training_gradient_matches_finite_differences(name):
    """The second derivatives through the forces are right, parameter by parameter."""
    model = make(name)
    s = replace(molecule(11), energy=0.3, forces=np.random.default_rng(1).normal(size=(7, 3)))
    data = batch([s], CUTOFF)

    def loss() -> torch.Tensor:
        return loss_of(model, data, 0.9, 2.0).total

    parameters = list(model.parameters())
    loss().backward(inputs=parameters)
    torch.manual_seed(2)
    ways = [torch.randn_like(p) for p in parameters]
    slope = sum(float((p.grad * w).sum()) for p, w in zip(parameters, ways, strict=True))
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for p, w in zip(parameters, ways, strict=True):
                p.add_(step * w)
        values.append(loss().item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-7)


@every
def test_isolated_atoms_and_batches_without_edges(name, head):
    model = make(name, head)
    atom = Structure(np.array([8]), np.zeros((1, 3)))
    e, f = predict(model, atom, replace(atom, z=np.array([1])))
    assert np.isfinite(e).all()
    assert e[0] != e[1]
    np.testing.assert_array_equal(f, 0.0)
    with_others, _ = predict(model, molecule(), atom)
    assert with_others[1] == pytest.approx(e[0], abs=1e-12)
    data = batch([replace(atom, energy=1.0, forces=np.ones((1, 3)))], CUTOFF)
    parameters = list(model.parameters())
    loss = loss_of(model, data)
    loss.total.backward(inputs=parameters)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)
