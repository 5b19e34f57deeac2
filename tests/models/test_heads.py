"""What must hold for the head of every kind of target, on every algorithm, in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from brute import Structure, batch
from model_cases import NAMES, crossing

from gfm_pipeline.core.contracts.targets import (
    CHARGES,
    DEFAULT,
    DIPOLE,
    ENERGY,
    FORCES,
    STRESS,
    Constraint,
    Level,
    Origin,
    Rank,
    Reference,
    Target,
)
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import ForceHead, ModelSpec, Potential

CUTOFF = 4.0
KINDS = {
    f"{level}_{rank}{'_sum' if extensive else ''}": Target(
        f"{level}_{rank}{'_sum' if extensive else ''}", "", "", level, rank, extensive=extensive
    )
    for level, rank, extensive in product(Level, Rank, (False, True))
    if level is Level.GRAPH or not extensive
}
every_algorithm = pytest.mark.parametrize("algorithm", NAMES)
with_and_without_vectors = pytest.mark.parametrize("algorithm", ["SchNet", "PaiNN"])
ALL = (*DEFAULT, STRESS, CHARGES, *KINDS.values())


def make(algorithm: str, targets: tuple[Target, ...] = ALL, **changes) -> Potential:
    torch.manual_seed(1)
    spec = ModelSpec(algorithm, 12, 2, CUTOFF, n_datasets=2, avg_neighbours=9.0, force_rms=1.7, targets=targets)
    model = Potential(replace(spec, **changes)).double()
    with torch.no_grad():  # weights of order one everywhere, so that no part of the model is idle
        for name, p in model.named_parameters():
            p.mul_(10.0) if "weight2" in name and p.shape[-1] == 1 else p.add_(0.05 * torch.randn_like(p))
    return model


def molecule(seed: int, n: int = 6, dataset: int = 0) -> Structure:
    rng = np.random.default_rng(seed)
    pos = 1.5 * np.array(list(product(range(2), range(2), range(3))))[rng.permutation(12)[:n]]
    return Structure(rng.choice([1, 6, 8], n), pos + rng.normal(scale=0.1, size=(n, 3)), None, dataset)


def crystal(seed: int, dataset: int = 1) -> Structure:
    rng = np.random.default_rng(seed)
    cell = 3.6 * np.eye(3) + rng.normal(scale=0.25, size=(3, 3))
    frac = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Structure(rng.choice([13, 29], 4), (frac + rng.normal(scale=0.03, size=(4, 3))) @ cell, cell, dataset)


def predict(model: Potential, *structures: Structure) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in model(batch(structures, CUTOFF), stress=True).values.items()}


def turned(values: np.ndarray, rank: Rank, q: np.ndarray) -> np.ndarray:
    if rank is Rank.SCALAR:
        return values
    return values @ q.T if rank is Rank.VECTOR else q @ values @ q.T


@every_algorithm
@pytest.mark.parametrize("sign", [1, -1])
def test_values_turn_and_reflect_with_the_structure(algorithm, sign):
    model = make(algorithm)
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    q *= sign * np.sign(np.linalg.det(q))
    a, b = molecule(0), crystal(1)
    before = predict(model, a, b)
    after = predict(
        model, *(replace(s, pos=s.pos @ q.T, cell=None if s.cell is None else s.cell @ q.T) for s in (a, b))
    )
    for target in ALL:
        values = before[target.name]
        assert values.shape == ((2, 10)[target.level is Level.ATOM], *target.shape)
        assert np.nanmax(np.abs(values)) > 1e-3
        np.testing.assert_allclose(after[target.name], turned(values, target.rank, q), atol=1e-10, err_msg=target.name)
        if target.rank is Rank.TENSOR:
            np.testing.assert_array_equal(values, values.swapaxes(1, 2))


@every_algorithm
def test_values_follow_the_order_of_atoms_and_structures(algorithm):
    model, a, b = make(algorithm), molecule(1), crystal(2)
    order = np.random.default_rng(5).permutation(len(a.z))
    before, after = predict(model, a, b), predict(model, b, replace(a, z=a.z[order], pos=a.pos[order]))
    for target in ALL:
        one, two = before[target.name], after[target.name]
        swapped = np.concatenate([one[len(a.z) :], one[: len(a.z)][order]]) if target.level is Level.ATOM else one[::-1]
        np.testing.assert_allclose(two, swapped, atol=1e-10, err_msg=target.name)


@every_algorithm
def test_extensive_values_add_up_and_intensive_ones_are_means(algorithm):
    model, s = make(algorithm, (*DEFAULT, *KINDS.values())), molecule(3)
    both = replace(s, z=np.tile(s.z, 2), pos=np.concatenate([s.pos, s.pos + np.array([50.0, 0, 0])]))
    values = predict(model, s, both)
    for target in KINDS.values():
        found = values[target.name]
        if target.level is Level.ATOM:
            np.testing.assert_allclose(found[6:], np.tile(found[:6], (2, *[1] * (found.ndim - 1))), atol=1e-11)
        else:
            np.testing.assert_allclose(found[1], (2 if target.extensive else 1) * found[0], atol=1e-11)


@every_algorithm
def test_lone_atoms_have_finite_values_without_direction(algorithm):
    model, atom = make(algorithm), Structure(np.array([8]), np.zeros((1, 3)))
    for target in (*DEFAULT, CHARGES, *KINDS.values()):
        value = predict(model, atom, atom)[target.name]
        assert np.isfinite(value).all()
        if target.rank is Rank.VECTOR:
            np.testing.assert_allclose(value, 0.0, atol=1e-15)
        if target.rank is Rank.TENSOR:
            np.testing.assert_allclose(value, value[0, 0, 0] * np.eye(3)[None].repeat(2, 0), atol=1e-15)


def idle(algorithm: str, targets: tuple[Target, ...], head: ForceHead) -> list[str]:
    """Return the names of parameters that no target depends on."""
    model = make(algorithm, targets, force_head=head, balanced_forces=True)
    structures = [replace(s, dataset=d) for d in range(2) for s in (molecule(d), crystal(d))]
    values = model(batch(structures, CUTOFF), training=True).values
    parameters = dict(model.named_parameters())
    sum((v * v).nansum() for v in values.values()).backward(inputs=list(parameters.values()))
    return [k for k, p in parameters.items() if p.grad is None or not p.grad.abs().max() > 0]


@every_algorithm
@pytest.mark.parametrize("head", list(ForceHead))
def test_every_parameter_learns_from_all_targets(algorithm, head):
    assert idle(algorithm, (*DEFAULT, STRESS, CHARGES, *KINDS.values()), head) == []


@with_and_without_vectors
@pytest.mark.parametrize("head", list(ForceHead))
def test_every_parameter_learns_from_each_target_alone(algorithm, head):
    for target in (ENERGY, CHARGES, *KINDS.values()):
        assert idle(algorithm, (target,), head) == [], target.name


def test_atoms_at_a_centre_of_inversion_have_tensors_that_are_not_isotropic():
    """Vectors vanish there, so tensors made of them would."""
    z, pos = np.array([6, 8, 8]), np.array([[0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]], dtype=float)
    model = make("PaiNN")
    value = predict(model, Structure(z, pos))["atom_tensor"][0]
    assert abs(value[2, 2] - value[0, 0]) > 1e-3
    np.testing.assert_allclose(value - np.diag(np.diag(value)), 0.0, atol=1e-12)


@every_algorithm
def test_values_and_their_slopes_do_not_jump_where_an_atom_crosses_the_cutoff(algorithm):
    model, h = make(algorithm), 1e-4
    for last_neighbour in (False, True):
        structures = crossing(last_neighbour, CUTOFF + h * np.arange(-20, 21))
        values = predict(model, *structures)
        for target in model.spec.targets:
            if target.origin is not Origin.HEAD:
                continue
            path = values[target.name].reshape(41, -1)
            slope, curvature = np.diff(path, axis=0) / h, np.diff(path, 2, axis=0) / h**2
            assert np.abs(slope[20:]).max() < 1e-6, target.name  # outside, nothing is left of it
            for inside, at in ((slope[:4], slope[19]), (curvature[:4], curvature[18:20])):
                assert np.abs(at).max() < 0.2 * np.abs(inside).max() + 1e-4, target.name


@every_algorithm
def test_charges_sum_to_the_total_charge(algorithm):
    model = make(algorithm)
    values = predict(model, replace(molecule(4), charge=-2.0), crystal(4), replace(molecule(5, 3), charge=1.0))
    sums = [values["charges"][first:end].sum() for first, end in ((0, 6), (6, 10), (10, 13))]
    np.testing.assert_allclose(sums, [-2.0, 0.0, 1.0], atol=1e-12)
    assert np.abs(values["charges"]).max() > 0.1


@every_algorithm
def test_balanced_direct_forces_have_no_net_force_and_no_torque(algorithm):
    model = make(algorithm, DEFAULT, force_head=ForceHead.DIRECT)
    line = Structure(np.array([1, 8, 6]), np.array([[0, 0, 0], [0.6, 0.6, 0.6], [1.3, 1.3, 1.3]]) + 4.0)
    a, b = molecule(6), crystal(6)
    free = predict(model, a, line, b)["forces"]
    model.spec = replace(model.spec, balanced_forces=True)
    force = predict(model, a, line, b)["forces"]
    for first, end in ((0, 6), (6, 9), (9, 13)):
        assert np.abs(free[first:end].sum(0)).max() > 1e-3
        np.testing.assert_allclose(force[first:end].sum(0), 0.0, atol=1e-12)
    assert np.abs(np.cross(a.pos, free[:6]).sum(0)).max() > 1e-2
    np.testing.assert_allclose(np.cross(a.pos, force[:6]).sum(0), 0.0, atol=1e-11)
    np.testing.assert_allclose(np.cross(line.pos, force[6:9]).sum(0), 0.0, atol=1e-11)
    # of a crystal, whose images pull at it, only the net force goes
    np.testing.assert_allclose(force[9:], free[9:] - free[9:].mean(0), atol=1e-12)


def strained(s: Structure, e: np.ndarray) -> Structure:
    return replace(s, pos=s.pos @ (np.eye(3) + e), cell=s.cell @ (np.eye(3) + e))


@every_algorithm
def test_stress_is_the_slope_of_the_energy_by_strain_over_the_volume(algorithm):
    model, s, h = make(algorithm, DEFAULT), crystal(7), 1e-4
    stress = predict(model, molecule(1), s)["stress"]
    assert np.isnan(stress[0]).all()
    volume = abs(np.linalg.det(s.cell))
    components, ways = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)), []
    for i, j in components:
        e = np.zeros((3, 3))
        e[i, j] += 0.5
        e[j, i] += 0.5
        ways += [strained(s, k * h * e) for k in (-2, -1, 1, 2)]
    energies = predict(model, *ways)["energy"].reshape(6, 4)
    slopes = energies @ np.array([1.0, -8.0, 8.0, -1.0]) / (12 * h)
    np.testing.assert_allclose(slopes / volume, [stress[1, i, j] for i, j in components], atol=1e-9)
    assert np.abs(stress[1]).max() > 1e-3


def test_stress_does_not_change_what_else_is_predicted():
    s = [molecule(8), crystal(8)]
    data = batch(s, CUTOFF)
    for algorithm, head in product(("SchNet", "PaiNN"), ForceHead):
        model = make(algorithm, DEFAULT, force_head=head)
        with_stress, without = model(data, stress=True).values, model(data).values
        assert set(with_stress) - set(without) == {"stress"}
        for name in without:
            torch.testing.assert_close(with_stress[name], without[name], rtol=0, atol=1e-12)


@with_and_without_vectors
def test_the_gradient_through_the_stress_is_that_of_finite_differences(algorithm):
    model, data = make(algorithm, (*DEFAULT, STRESS)), batch([crystal(9), molecule(9)], CUTOFF)

    def loss() -> torch.Tensor:
        values = model(data, training=True).values
        return (values["stress"][:1] ** 2).sum() + (values["forces"] ** 2).sum() + values["energy"].sum()

    parameters = list(model.parameters())
    loss().backward(inputs=parameters)
    torch.manual_seed(2)
    ways = [torch.randn_like(p) for p in parameters]
    slope = sum(float((p.grad * w).sum()) for p, w in zip(parameters, ways, strict=True))
    found = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for p, w in zip(parameters, ways, strict=True):
                p.add_(step * w)
        found.append(loss().item())
    assert (found[0] - found[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)


def test_a_model_without_energy_has_no_gradient_and_refuses_stress():
    model = make("SchNet", (DIPOLE, CHARGES))
    data = batch([molecule(2)], CUTOFF)
    assert set(model(data).values) == {"dipole", "charges"}
    with pytest.raises(ModelError, match="predicts no energy, and so no stress"):
        model(data, stress=True)
    assert set(make("SchNet", (FORCES, DIPOLE), force_head=ForceHead.DIRECT)(data).values) == {"forces", "dipole"}


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ((), "at least one target"),
        ((FORCES, DIPOLE), "forces is a derivative of the energy, which is not a target"),
        ((STRESS,), "stress is a derivative of the energy, which is not a target"),
        ((ENERGY, DIPOLE, DIPOLE), "dipole is named twice"),
    ],
)
def test_targets_that_no_model_predicts_together_are_refused(targets, words):
    with pytest.raises(ModelError, match=words):
        Potential(ModelSpec("SchNet", 8, 1, CUTOFF, targets=targets))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"origin": Origin.GRADIENT}, "origin is gradient, which gives one vector per atom"),
        ({"origin": Origin.STRAIN}, "origin is strain, which gives one tensor per graph"),
        ({"constraint": Constraint.TOTAL_CHARGE}, "which scalars of atoms obey"),
        (
            {"constraint": Constraint.TOTAL_CHARGE, "level": Level.ATOM, "reference": Reference.ELEMENTS},
            "reference is elements, and values that are total_charge are learned whole",
        ),
    ],
)
def test_a_target_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(ModelError, match=words):
        Potential(ModelSpec("SchNet", 8, 1, CUTOFF, targets=(Target("twist", "", "", **changes),)))
