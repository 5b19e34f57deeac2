"""Physical constraints on the predictions of all atoms of a structure."""

from __future__ import annotations

import torch
from torch import Tensor

from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import scatter_sum

_LONE = 1e-12  # Angstrom^2: makes the inertia of a single atom, which is zero, invertible


def with_total(values: Tensor, total: Tensor, graph: Tensor, natoms: Tensor) -> Tensor:
    """Return ``values`` [N, ...] that sum to ``total`` [G, ...] in each structure; all atoms change alike."""
    missing = total - scatter_sum(values, graph, natoms.shape[0])
    share = missing / natoms.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    return values + share.index_select(0, graph)


def balanced(forces: Tensor, batch: Batch) -> Tensor:
    """Return ``forces`` [N, 3] without net force and, for structures without periodicity, without net torque.

    The change is the smallest possible: a shift, and a rotation about the centre of the atoms. In a batch without cells
    periodicity is unknown, and torques stay.
    """
    graph, n = batch.graph, batch.natoms.shape[0]
    forces = with_total(forces, forces.new_zeros(n, 3), graph, batch.natoms)
    if batch.cell is None:
        return forces
    pos = batch.pos.detach()
    centre = scatter_sum(pos, graph, n) / batch.natoms.to(pos.dtype).unsqueeze(1)
    arm = pos - centre.index_select(0, graph)
    torque = scatter_sum(torch.linalg.cross(arm, forces), graph, n)
    unit = torch.eye(3, dtype=pos.dtype, device=pos.device)
    square = (arm * arm).sum(1).view(-1, 1, 1)
    inertia = scatter_sum(square * unit - arm.unsqueeze(2) * arm.unsqueeze(1), graph, n)
    # a linear molecule has no inertia about its axis: avoid dividing rounding errors by zero
    floor = 10.0 * torch.finfo(pos.dtype).eps * inertia.diagonal(dim1=1, dim2=2).sum(1) + _LONE
    turn, _ = torch.linalg.solve_ex(inertia + floor.view(-1, 1, 1) * unit, torque)
    finite = (batch.cell == 0).all(2).all(1, keepdim=True)
    turn = torch.where(finite, turn, torch.zeros_like(turn))
    turned: Tensor = torch.linalg.cross(turn.index_select(0, graph), arm)
    return forces - turned
