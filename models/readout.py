"""Heads: one per dataset, all computed from stacked parameters and picked by a gather.

Stacked parameters need no loop over datasets and no host synchronisation, and every parameter has a gradient
(zero for a head whose dataset is not in the batch).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfm_pipeline.models.layers import GEOMETRY_GAIN, lengths_and_directions, linear, scatter_sum
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.spec import ModelSpec


def _stacked(n: int, n_in: int, n_out: int, gain: float = 1.0) -> nn.Parameter:
    bound = gain * math.sqrt(6.0 / (n_in + n_out))
    return nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-bound, bound))


class NodeEnergy(nn.Module):
    """Energy of each atom, a two-layer network per dataset; extensive because atoms are summed after it."""

    def __init__(self, hidden: int, n_datasets: int) -> None:
        super().__init__()
        self.weight1 = _stacked(n_datasets, hidden, hidden)
        self.bias1 = nn.Parameter(torch.zeros(n_datasets, 1, hidden))
        self.weight2 = _stacked(n_datasets, hidden, 1, gain=0.1)  # start near the reference energies
        self.bias2 = nn.Parameter(torch.zeros(n_datasets, 1, 1))

    def forward(self, x: Tensor, head: Tensor) -> Tensor:
        """Return node energies [N] of features [N, H] for the dataset ``head`` [N] of each atom."""
        hidden = functional.silu(torch.matmul(x, self.weight1) + self.bias1)
        energy = torch.matmul(hidden, self.weight2) + self.bias2  # [B, N, 1]
        if energy.shape[0] == 1:
            return energy.reshape(-1)
        return energy.squeeze(2).t().gather(1, head.unsqueeze(1)).squeeze(1)


class EdgeVectors(nn.Module):
    """Vector features for algorithms that have none: directions weighted by a network of both end points."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        self.norm = 1.0 / math.sqrt(spec.avg_neighbours)
        self.target = linear(spec.hidden, spec.hidden)
        self.source = linear(spec.hidden, spec.hidden, bias=False)
        self.basis = linear(spec.n_radial, spec.hidden, bias=False, gain=GEOMETRY_GAIN)

    def forward(self, x: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return vectors [N, 3, H]."""
        distance, direction = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        ends = self.target(x).index_select(0, dst) + self.source(x).index_select(0, src)
        weight = functional.silu(torch.addmm(ends, basis, self.basis.weight.t())) * (envelope * self.norm)
        return scatter_sum(direction.unsqueeze(2) * weight.unsqueeze(1), dst, x.shape[0])


class DirectForces(nn.Module):
    """Forces as gated sums of vector features, one head per dataset; equivariant, not conservative."""

    def __init__(self, hidden: int, n_datasets: int) -> None:
        super().__init__()
        self.weight1 = _stacked(n_datasets, hidden, hidden)
        self.bias1 = nn.Parameter(torch.zeros(n_datasets, 1, hidden))
        self.weight2 = _stacked(n_datasets, hidden, hidden)

    def forward(self, x: Tensor, vectors: Tensor, head: Tensor) -> Tensor:
        """Return forces [N, 3] from scalars [N, H] and vectors [N, 3, H]."""
        gate = torch.matmul(functional.silu(torch.matmul(x, self.weight1) + self.bias1), self.weight2)  # [B, N, H]
        chosen = gate.gather(0, head.view(1, -1, 1).expand(1, -1, gate.shape[2])).squeeze(0)
        return (vectors * chosen.unsqueeze(1)).sum(2) / math.sqrt(gate.shape[2])
