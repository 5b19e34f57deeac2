"""Models and structures of the tests of properties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import Structure, batch

from gfm_pipeline.models import ForceHead, ModelSpec, Potential, algorithms
from gfm_pipeline.models.registry import describe

CUTOFF = 4.0
NAMES = [name for name in algorithms() if describe(name).features]  # the others are models of other packages
CASES = [(name, head) for name in NAMES for head in ForceHead]
every = pytest.mark.parametrize(("name", "head"), CASES, ids=[f"{n}-{h}" for n, h in CASES])
conservative = pytest.mark.parametrize("name", NAMES)


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


def crossing(last_neighbour: bool, distances: np.ndarray) -> list[Structure]:
    """One atom crosses the cutoff: of a cluster, or of an atom that has no other neighbour."""
    base = molecule(8, 5) if not last_neighbour else Structure(np.array([6]), np.zeros((1, 3)))
    way = np.array([0.36, 0.48, 0.8])
    # distances are measured from the cluster's outermost atom along a direction that leaves the others behind
    start = base.pos[np.argmax(base.pos @ way)]
    return [replace(base, z=np.append(base.z, 8), pos=np.vstack([base.pos, start + d * way])) for d in distances]
