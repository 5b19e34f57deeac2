"""Attention between all atoms of a structure: what it sees, and what physics it keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import Structure, batch, loss_of

from gfm_pipeline.apps.dataset import GraphTable
from gfm_pipeline.apps.train.data_doubts import doubts
from gfm_pipeline.core.contracts.training import ModelSettings
from gfm_pipeline.models import ModelSpec, Potential
from gfm_pipeline.models.global_attention import GlobalAttention

CUTOFF = 3.0


def model(attention: bool = True, algorithm: str = "PaiNN") -> Potential:
    torch.manual_seed(2)
    spec = ModelSpec(algorithm, 12, 2, CUTOFF, avg_neighbours=4.0, n_datasets=2, global_attention=attention)
    made = Potential(spec).double()
    with torch.no_grad():
        made.node_energy.weight2.mul_(10.0)
    return made


def molecule(seed: int = 0, n: int = 5, away: float = 0.0) -> Structure:
    rng = np.random.default_rng(seed)
    return Structure(rng.choice([1, 6, 8], n), rng.normal(scale=1.3, size=(n, 3)) + away)


def energies(made: Potential, *structures: Structure) -> np.ndarray:
    return made(batch(structures, CUTOFF)).energy.numpy()


def test_every_atom_weighs_all_of_its_structure_and_no_other():
    torch.manual_seed(0)
    attention = GlobalAttention(8).double()
    data = batch([molecule(0, 3), molecule(1, 4)], CUTOFF)
    x = torch.randn(7, 8, dtype=torch.float64)
    found = attention.attended(x, data)
    for atom in range(7):
        rows = x[:3] if atom < 3 else x[3:]
        for head, part in enumerate(torch.arange(8).view(attention.heads, -1)):
            query = torch.nn.functional.softplus(attention.query(x[atom]))[part]
            keys = torch.nn.functional.softplus(attention.key(rows))[:, part]
            weights = (keys @ query) / (keys @ query).sum()
            wanted = weights @ attention.value(rows)[:, part]
            torch.testing.assert_close(found[atom, part], wanted, rtol=1e-5, atol=1e-7, msg=f"head {head}")


def test_it_sees_beyond_the_cutoff_and_structures_of_a_batch_do_not_see_each_other():
    one, other = molecule(0), molecule(1, away=20.0)
    both = Structure(np.concatenate([one.z, other.z]), np.vstack([one.pos, other.pos]))
    apart = energies(model(), one, other)
    assert energies(model(), one)[0] == pytest.approx(apart[0], abs=1e-12)
    assert abs(energies(model(), both)[0] - apart.sum()) > 1e-4  # energies of fragments do not add up
    assert energies(model(False), both)[0] == pytest.approx(energies(model(False), one, other).sum(), abs=1e-10)


def test_it_turns_and_its_forces_are_gradients():
    made, s, h = model(), molecule(3), 1e-5
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    plain, turned = (made(batch([t], CUTOFF)) for t in (s, replace(s, pos=s.pos @ q.T)))
    np.testing.assert_allclose(turned.energy, plain.energy, atol=1e-10)
    np.testing.assert_allclose(turned.forces, plain.forces.numpy() @ q.T, atol=1e-9)
    up, down = s.pos.copy(), s.pos.copy()
    up[1, 0] += h
    down[1, 0] -= h
    slope = np.diff(energies(made, replace(s, pos=down), replace(s, pos=up)))[0] / (2 * h)
    assert -slope == pytest.approx(plain.forces[1, 0].item(), abs=1e-6)


def test_every_parameter_learns():
    made = model()
    labelled = [replace(molecule(k), energy=1.0, forces=np.ones((5, 3)), dataset=k) for k in range(2)]
    parameters = dict(made.named_parameters())
    loss_of(made, batch(labelled, CUTOFF)).total.backward(inputs=list(parameters.values()))
    assert [name for name, p in parameters.items() if not p.grad.abs().max() > 0] == []


def test_a_periodic_structure_does_not_change_and_training_says_so():
    cell = 4.0 * np.eye(3)
    for axes in (slice(0, 3), slice(0, 1)):
        some = np.zeros((3, 3))
        some[axes] = cell[axes]
        data = batch([molecule(0)], CUTOFF)
        periodic = replace(data, cell=torch.from_numpy(some)[None])
        attention = GlobalAttention(12).double()
        x = torch.randn(5, 12, dtype=torch.float64)
        assert torch.equal(attention(x, periodic), x)
        assert not torch.equal(attention(x, data), x)
    fields = dict.fromkeys(GraphTable.__dataclass_fields__)
    table = GraphTable(**{**fields, "attributes": {}, "natoms": np.ones(2), "cell": np.stack([cell, 0 * cell])})
    told = ModelSettings("PaiNN", global_attention=True)
    assert list(doubts("d", table, told)) == [
        "1 of 2 structures of dataset d are periodic: global attention leaves them as they are."
    ]
    assert list(doubts("d", table, ModelSettings("PaiNN"))) == []
