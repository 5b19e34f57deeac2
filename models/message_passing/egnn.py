"""EGNN: messages from both end points and the distance; the coordinate update becomes a feature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.models.layers import GEOMETRY_GAIN, Embedding, lengths_and_directions, linear, mlp, scatter_sum, silu
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec


class EgnnConvolution(nn.Module):
    """One EGNN layer.

    The edge network is split. Its first matrix acts on nodes and on the basis (A x_i + B x_j + C basis), its second
    after the sum over neighbours, which has far fewer rows. The result is the same function.
    """

    def __init__(self, hidden: int, n_radial: int, channels: int, norm: float) -> None:
        super().__init__()
        self.norm = norm
        self.target = linear(hidden, hidden)
        self.source = linear(hidden, hidden, bias=False)
        self.radial = linear(n_radial, hidden, bias=False, gain=GEOMETRY_GAIN)
        self.velocity = linear(hidden, channels, bias=False)
        self.update = mlp(2 * hidden + channels, hidden, hidden)

    def forward(
        self, x: Tensor, basis: Tensor, envelope: Tensor, direction: Tensor, src: Tensor, dst: Tensor
    ) -> Tensor:
        """Return the change of node features [N, H]."""
        n = x.shape[0]
        ends = self.target(x).index_select(0, dst) + self.source(x).index_select(0, src)
        message = silu(torch.addmm(ends, basis, self.radial.weight.t())) * (envelope * self.norm)
        speed = self.velocity(message)
        velocity = scatter_sum(direction.unsqueeze(2) * speed.unsqueeze(1), dst, n)
        change: Tensor = self.update(torch.cat([x, scatter_sum(message, dst, n), (velocity * velocity).sum(1)], 1))
        return change


class EGNN(MessagePassing):
    """E(n)-equivariant network (Satorras, Hoogeboom, Welling, ICML 2021) for potentials.

    Atoms do not move: the paper's coordinate update sum_j (x_i - x_j) phi(m_ij) becomes ``vector_channels`` velocities
    per node, whose squared lengths feed the scalars. This adds angular information to the invariant messages. Unlike
    the paper, the envelope multiplies every message.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.embedding = Embedding(spec.hidden, deviation=0.5)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        channels = int(options["vector_channels"])
        self.convolutions = nn.ModuleList(
            EgnnConvolution(spec.hidden, spec.n_radial, channels, norm) for _ in range(spec.layers)
        )

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`; the velocities stay inside the layers."""
        distance, direction = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        x = self.embedding(z)
        for convolution in self.convolutions:
            x = x + convolution(x, basis, envelope, direction, src, dst)
        return x, None
