"""What must hold for every registered architecture, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import Structure, batch, loss_of

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import ForceHead, ModelSpec, Potential, algorithm, algorithms
from gfm_pipeline.models.registry import describe

CUTOFF = 4.0
NAMES = [
    name for name in algorithms() if "mace" not in describe(name).needs
]  # that one gives energies, and no features
CASES = [(name, head) for name in NAMES for head in ForceHead]
every = pytest.mark.parametrize(("name", "head"), CASES, ids=[f"{n}-{h}" for n, h in CASES])
conservative = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name: str, head: ForceHead = ForceHead.CONSERVATIVE, **changes) -> Potential:
    torch.manual_seed(1)
    spec = ModelSpec(name, hidden=12, layers=2, cutoff=CUTOFF, force_head=head, n_datasets=3, avg_neighbours=9.0)
    model = Potential(replace(spec, force_rms=1.7, **changes)).double()
    with torch.no_grad():  # weights of order one everywhere, so that no part of the model is idle
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        model.node_energy.weight2.mul_(10.0)
    return model


def molecule(seed: int = 0, n: int = 7, dataset: int = 0) -> Structure:
    rng = np.random.default_rng(seed)
    pos = [np.zeros(3)]
    while len(pos) < n:
        step = rng.normal(size=3)
        new = pos[rng.integers(len(pos))] + 1.3 * step / np.linalg.norm(step)
        if min(np.linalg.norm(new - p) for p in pos) > 0.9:
            pos.append(new)
    return Structure(rng.choice([1, 6, 8, 79], n), np.array(pos), None, dataset)


def crystal(seed: int = 0, dataset: int = 1) -> Structure:
    rng = np.random.default_rng(seed)
    cell = 3.6 * np.eye(3) + rng.normal(scale=0.25, size=(3, 3))
    frac = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Structure(rng.choice([13, 29, 47], 4), (frac + rng.normal(scale=0.03, size=(4, 3))) @ cell, cell, dataset)


def predict(model: Potential, *structures: Structure) -> tuple[np.ndarray, np.ndarray]:
    out = model(batch(structures, CUTOFF))
    return out.energy.numpy(), out.forces.numpy()


def rotation(seed: int, *, reflect: bool) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    return -q if reflect else q


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


def _crossing(last_neighbour: bool, distances: np.ndarray) -> list[Structure]:
    """One atom crosses the cutoff: of a cluster, or of an atom that has no other neighbour."""
    base = molecule(8, 5) if not last_neighbour else Structure(np.array([6]), np.zeros((1, 3)))
    way = np.array([0.36, 0.48, 0.8])
    # distances are measured from the cluster's outermost atom along a direction that leaves the others behind
    start = base.pos[np.argmax(base.pos @ way)]
    return [replace(base, z=np.append(base.z, 8), pos=np.vstack([base.pos, start + d * way])) for d in distances]


@every
@pytest.mark.parametrize("last_neighbour", [False, True])
def test_energy_and_forces_are_smooth_at_the_cutoff(name, head, last_neighbour):
    model = make(name, head)
    h = 1e-4
    distances = CUTOFF + h * np.arange(-20, 21)
    out = [predict(model, s) for s in _crossing(last_neighbour, distances)]
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
    tiny = [predict(model, s) for s in _crossing(last_neighbour, np.array([CUTOFF - 1e-7, CUTOFF + 1e-7]))]
    np.testing.assert_allclose(tiny[0][0], tiny[1][0], atol=1e-12)
    np.testing.assert_allclose(tiny[0][1], tiny[1][1], atol=1e-10)


@conservative
def test_a_neighbour_inside_the_cutoff_does_matter(name):
    model = make(name)
    energies = [predict(model, s)[0][0] for s in _crossing(False, np.array([1.4, 2.0, CUTOFF + 1.0]))]
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


@every
def test_single_and_double_precision_agree(name, head):
    model = make(name, head)
    structures = [molecule(12), crystal(13)]
    double = model(batch(structures, CUTOFF))
    single = model.float()(batch(structures, CUTOFF, torch.float32))
    assert single.energy.dtype == torch.float32
    assert double.energy.dtype == torch.float64
    torch.testing.assert_close(single.energy.double(), double.energy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(single.forces.double(), double.forces, rtol=1e-3, atol=1e-3)


@every
def test_datasets_have_their_own_heads_and_share_the_representation(name, head):
    model, s = make(name, head), molecule(14)
    e, f = predict(model, s, replace(s, dataset=1), replace(s, dataset=2))
    assert len({round(float(x), 6) for x in e}) == 3
    assert np.abs(f[:7] - f[7:14]).max() > 1e-4
    alone, alone_f = predict(model, replace(s, dataset=2))
    np.testing.assert_allclose(alone[0], e[2], atol=1e-12)
    np.testing.assert_allclose(alone_f, f[14:], atol=1e-11)


@conservative
def test_the_result_is_detached_unless_training(name):
    model = make(name)
    out = model(batch([molecule()], CUTOFF))
    assert not out.energy.requires_grad
    assert not out.forces.requires_grad
    assert model(batch([molecule()], CUTOFF), training=True).forces.requires_grad


@conservative
def test_energy_and_forces_scale_with_the_force_unit(name):
    e, f = predict(make(name), molecule())
    model = make(name)
    model.spec = replace(model.spec, force_rms=2 * model.spec.force_rms)
    e2, f2 = predict(model, molecule())
    np.testing.assert_allclose(e2, 2 * e, rtol=1e-12)
    np.testing.assert_allclose(f2, 2 * f, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": "PaiNNN"}, "Did you mean PaiNN"),
        ({"options": {"filter_hiden": 3}}, "filter_hidden"),
        ({"options": {"filter_hidden": 1.5}}, "whole number from 0"),
        ({"hidden": 0}, "hidden must be a whole number from 1"),
        ({"cutoff": -1.0}, "cutoff must be a number from 0.5"),
        ({"n_datasets": 0}, "n_datasets > 0"),
    ],
)
def test_impossible_specs_are_refused_by_name(changes, words):
    with pytest.raises(ModelError, match=words):
        Potential(replace(ModelSpec("SchNet", 8, 1, 4.0), **changes))


def test_an_unknown_dataset_is_refused():
    with pytest.raises(ModelError, match="3 dataset heads"):
        predict(make("SchNet"), replace(molecule(), dataset=3))


@conservative
def test_registry_names_classes_with_options(name):
    for option in describe(name).options:
        assert algorithm(name)(make(name).spec, {o.name: o.default for o in describe(name).options})
        make(name, options={option.name: option.default})


def test_schnet_with_the_papers_filter_network_is_smooth_and_conservative():
    model = make("SchNet", options={"filter_hidden": 16})
    h = 1e-4
    s = molecule(3)
    _, force = predict(model, s)
    up, down = s.pos.copy(), s.pos.copy()
    up[1, 2] += h
    down[1, 2] -= h
    slope = (predict(model, replace(s, pos=up))[0][0] - predict(model, replace(s, pos=down))[0][0]) / (2 * h)
    assert -slope == pytest.approx(force[1, 2], abs=1e-5)
    tiny = [predict(model, x) for x in _crossing(False, np.array([CUTOFF - 1e-7, CUTOFF + 1e-7]))]
    np.testing.assert_allclose(tiny[0][1], tiny[1][1], atol=1e-10)


def test_loss_leaves_missing_labels_out_but_shows_a_diverged_model():
    model = make("SchNet")
    a, b = molecule(1), molecule(2)
    full = batch([replace(a, energy=1.0, forces=np.ones((7, 3)))], CUTOFF)
    mixed = batch(
        [
            replace(a, energy=1.0, forces=np.ones((7, 3))),
            replace(b, energy=np.nan, forces=np.full((7, 3), np.nan)),
        ],
        CUTOFF,
    )
    want = loss_of(model, full, force_weight=1.5)
    got = loss_of(model, mixed, force_weight=1.5)
    assert got.total.item() == pytest.approx(want.total.item(), rel=1e-12)
    parameters = list(model.parameters())
    got.total.backward(inputs=parameters)
    assert all(bool(p.grad.isfinite().all()) for p in parameters)
    with torch.no_grad():
        model.node_energy.bias2.fill_(float("nan"))
    assert torch.isnan(loss_of(model, full).total)


@pytest.mark.parametrize("head", list(ForceHead))
def test_weights_saved_under_the_former_names_of_parts_load(head):
    """Checkpoints written before 2026-11-30 call the parts trunk, direct and edge_vectors."""
    model = Potential(ModelSpec("SchNet", 8, 1, 3.0, force_head=head))
    former = {"representation": "trunk", "force_head": "direct", "vector_features": "edge_vectors"}
    saved = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        saved[f"{former.get(part, part)}.{rest}"] = tensor + 1.0
    assert saved.keys() != model.state_dict().keys()
    model.load_state_dict(saved)
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        assert torch.equal(tensor, saved[f"{former.get(part, part)}.{rest}"]), name
