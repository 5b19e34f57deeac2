"""MFC: one matrix per number of neighbours, blended smoothly between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.models.layers import Embedding, lengths_and_directions, linear, mlp, scatter_sum, silu
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec

MEAN_ENVELOPE = 7.0 / 24.0  # for neighbours spread evenly in the sphere of the cutoff


def spline_weights(position: Tensor, n: int) -> Tensor:
    """Return the weights [N, n] of ``n`` cubic B-splines at ``position`` [N, 1], knots at 0, 1, ..., n - 1.

    They are twice continuously differentiable and sum to one. Positions are not negative and approach n - 1 without a
    kink. ``n`` is at least two.
    """
    last = n - 1.0
    inside = last * torch.tanh(position / last)
    centres = torch.arange(-1, n + 1, dtype=position.dtype, device=position.device)
    t = (inside - centres).abs()
    near, far = (2.0 - t).clamp(min=0.0), (1.0 - t).clamp(min=0.0)
    weights = near.pow(3) / 6.0 - far.pow(3) * (2.0 / 3.0)
    # the splines centred one knot outside belong to the outermost matrices
    return torch.cat([weights[:, 1:2] + weights[:, :1], weights[:, 2:-2], weights[:, -2:-1] + weights[:, -1:]], 1)


class DegreeConvolution(nn.Module):
    """The filtered sum of neighbours and the atom's own features, through matrices blended by the degree."""

    def __init__(self, hidden: int, n_radial: int, degrees: int, norm: float) -> None:
        super().__init__()
        self.degrees, self.hidden, self.norm = degrees, hidden, norm
        self.filter = linear(n_radial, hidden, bias=False, gain=2.0)
        self.neighbours = linear(hidden, degrees * hidden)
        self.own = linear(hidden, degrees * hidden, bias=False)
        with torch.no_grad():  # Xavier's bound for one matrix, not for all matrices together
            bound = math.sqrt(3.0 / hidden)
            self.neighbours.weight.uniform_(-bound, bound)
            self.own.weight.uniform_(-bound, bound)
        self.update = mlp(hidden, hidden, hidden)

    def forward(self, x: Tensor, basis: Tensor, blend: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return the change of node features [N, H]; ``blend`` [N, degrees] weighs the matrices."""
        message = (x * self.norm).index_select(0, src) * self.filter(basis)
        both = self.neighbours(scatter_sum(message, dst, x.shape[0])) + self.own(x)
        blended = (both.view(-1, self.degrees, self.hidden) * blend.unsqueeze(2)).sum(1)
        change: Tensor = self.update(silu(blended))
        return change


class MFC(MessagePassing):
    """Molecular fingerprint convolution (Duvenaud et al., NeurIPS 2015), smooth.

    The paper picks a pair of matrices by the integer number of neighbours, which jumps. Here the number is the sum of
    envelopes, and a cubic B-spline blends ``degrees`` pairs of matrices. An atom with the mean number of neighbours,
    evenly spread, is in the middle of their range. Lengths enter through a filter of the radial basis.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.degrees = int(options["degrees"])
        self.embedding = Embedding(spec.hidden, deviation=0.5)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        self.convolutions = nn.ModuleList(
            DegreeConvolution(spec.hidden, spec.n_radial, self.degrees, norm) for _ in range(spec.layers)
        )

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`; MFC has no vectors."""
        distance, _ = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        scale = 0.5 * (self.degrees - 1) / (MEAN_ENVELOPE * self.spec.avg_neighbours)
        degree = scatter_sum(envelope, dst, z.shape[0]) * scale
        blend = spline_weights(degree, self.degrees)
        x = self.embedding(z)
        for convolution in self.convolutions:
            x = x + convolution(x, basis, blend, src, dst)
        return x, None
