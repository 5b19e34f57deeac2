"""A slow periodic neighbour list that can be checked by eye, and batches made with it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gfm_pipeline.models import Batch, Loss, Potential, multitask_loss


@dataclass(frozen=True)
class Structure:
    """Atomic numbers [N], positions [N, 3]; cell [3, 3] or None; dataset index; labels, charge and spin when given."""

    z: np.ndarray
    pos: np.ndarray
    cell: np.ndarray | None = None
    dataset: int = 0
    energy: float = 0.0
    forces: np.ndarray | None = None
    charge: float = 0.0
    spin: float = 0.0


def edges(pos: np.ndarray, cell: np.ndarray | None, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return src, dst and Cartesian shift of every directed edge shorter than the cutoff, over enough images."""
    images = [(0, 0, 0)]
    if cell is not None:
        spread = np.abs(pos[:, None] - pos[None]).sum(-1).max() if len(pos) else 0.0
        height = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        reach = [int(np.ceil((cutoff + spread) / h)) for h in height]
        images = list(itertools.product(*(range(-r, r + 1) for r in reach)))
    src, dst, shift = [], [], []
    for image in images:
        s = np.zeros(3) if cell is None else np.array(image) @ cell
        vec = pos[None] + s - pos[:, None]
        near = np.linalg.norm(vec, axis=-1) < cutoff
        if image == (0, 0, 0):
            np.fill_diagonal(near, False)
        i, j = np.nonzero(near)
        src.append(i)
        dst.append(j)
        shift.append(np.tile(s, (len(i), 1)))
    return np.concatenate(src), np.concatenate(dst), np.concatenate(shift)


def batch(structures: Sequence[Structure], cutoff: float, dtype: torch.dtype = torch.float64) -> Batch:
    """Return the disjoint union of structures."""
    parts, start = [], 0
    for s in structures:
        src, dst, shift = edges(s.pos, s.cell, cutoff)
        parts.append((src + start, dst + start, shift))
        start += len(s.z)
    natoms = np.array([len(s.z) for s in structures])
    forces = [np.zeros_like(s.pos) if s.forces is None else s.forces for s in structures]
    return Batch(
        z=torch.from_numpy(np.concatenate([s.z for s in structures])).long(),
        pos=torch.from_numpy(np.concatenate([s.pos for s in structures])).to(dtype),
        edge_src=torch.from_numpy(np.concatenate([p[0] for p in parts])).long(),
        edge_dst=torch.from_numpy(np.concatenate([p[1] for p in parts])).long(),
        edge_shift=torch.from_numpy(np.concatenate([p[2] for p in parts])).to(dtype),
        graph=torch.from_numpy(np.repeat(np.arange(len(structures)), natoms)).long(),
        natoms=torch.from_numpy(natoms).long(),
        dataset=torch.tensor([s.dataset for s in structures]),
        cell=torch.tensor(np.array([np.zeros((3, 3)) if s.cell is None else s.cell for s in structures]), dtype=dtype),
        attributes={
            "charge": torch.tensor([s.charge for s in structures], dtype=dtype),
            "spin": torch.tensor([s.spin for s in structures], dtype=dtype),
        },
        labels={
            "energy": torch.tensor([s.energy for s in structures], dtype=dtype),
            "forces": torch.from_numpy(np.concatenate(forces)).to(dtype),
        },
    )


def loss_of(model: Potential, data: Batch, scale: float = 1.0, force_weight: float = 1.0) -> Loss:
    """Return the loss of the targets of a model, all of one scale, and of weight 1 but for the forces."""
    targets = model.spec.targets
    scales = {t.name: torch.full((model.spec.n_datasets,), scale, dtype=data.pos.dtype) for t in targets}
    weights = {t.name: force_weight if t.name == "forces" else 1.0 for t in targets}
    return multitask_loss(model(data, training=True), data, scales, weights, targets)
