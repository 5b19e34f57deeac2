"""DimeNet++: messages along edges depend on the angles to the preceding edges, without a list of triplets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.models.layers import (
    GEOMETRY_GAIN,
    Embedding,
    SiLU,
    contracted,
    lengths_and_directions,
    linear,
    mlp,
    outer,
    scatter_sum,
    silu,
)
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec
from gfm_pipeline.models.spherical import SphericalHarmonics


class Residual(nn.Module):
    """Two layers that add to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # the gain keeps messages of order one through many blocks
        self.layers = nn.Sequential(linear(width, width), SiLU(), linear(width, width, gain=0.5), SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the changed features [E, H]."""
        change: Tensor = self.layers(x)
        return x + change


class DimeNetInteraction(nn.Module):
    """The directional update of messages m_ji [E, H] from all messages m_kj that arrive at the edge's source j."""

    def __init__(self, hidden: int, n_radial: int, channels: int, n_spherical: int, norm: float) -> None:
        super().__init__()
        self.channels, self.norm = channels, norm
        self.own, self.before = linear(hidden, hidden), linear(hidden, hidden)
        self.filter = linear(n_radial, hidden, bias=False, gain=2.0)
        self.down = linear(hidden, channels, bias=False)
        self.angular = linear(n_radial, n_spherical * channels, bias=False, gain=2.0)
        self.up = linear(channels, hidden, bias=False)
        self.inner = Residual(hidden)
        self.join = linear(hidden, hidden)
        self.outer = nn.Sequential(Residual(hidden), Residual(hidden))

    def forward(
        self, m: Tensor, basis: Tensor, harmonics: tuple[list[Tensor], list[Tensor]], src: Tensor, dst: Tensor, n: int
    ) -> Tensor:
        """Return the new messages; ``n`` is the number of atoms, the second list of harmonics includes the norm."""
        before = silu(self.before(m)) * self.filter(basis)
        before = silu(self.down(before)) * self.norm
        radial = self.angular(basis).split(self.channels, 1)
        incoming = []
        for functions, harmonic, scaled in zip(radial, *harmonics, strict=True):
            arriving = scatter_sum(outer(harmonic, before * functions), dst, n)
            incoming.append(contracted(scaled, arriving.index_select(0, src)))
        turned = reduce(add, incoming)
        h = silu(self.own(m)) + silu(self.up(turned))
        h = silu(self.join(self.inner(h))) + m
        changed: Tensor = self.outer(h)
        return changed


class DimeNetOutput(nn.Module):
    """The messages that arrive at an atom, after a filter of the distance and a network."""

    def __init__(self, hidden: int, n_radial: int, norm: float) -> None:
        super().__init__()
        self.norm = norm
        self.filter = linear(n_radial, hidden, bias=False, gain=2.0)
        self.network = mlp(hidden, hidden, hidden)

    def forward(self, m: Tensor, basis: Tensor, dst: Tensor, n: int) -> Tensor:
        """Return features of atoms [N, H]."""
        features: Tensor = self.network(scatter_sum(m * self.filter(basis) * self.norm, dst, n))
        return features


class DimeNet(MessagePassing):
    """DimeNet++ (Gasteiger, Giri, Margraf, Guennemann, 2020; DimeNet: ICLR 2020).

    The paper lists all triplets k, j, i and multiplies m_kj with Bessel and Legendre functions of distance and angle.
    By the addition theorem a Legendre polynomial of the angle is a sum of products of spherical harmonics of the two
    edges, so atom j computes the sum once for all edges that leave it. The cost grows with edges, not with triplets.
    Two things differ from the paper. The radial part of every order is the Bessel basis of order zero times the
    envelope (as in GemNet), which stays accurate at short distances. The backward path k = i is part of the sum.
    Messages themselves do not fade, but every reader of them applies a filter that does.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        hidden, n_spherical = spec.hidden, int(options["n_spherical"])
        self.embedding = Embedding(hidden, deviation=0.5)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        self.harmonics = SphericalHarmonics(n_spherical - 1)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        self.target, self.source = linear(hidden, hidden), linear(hidden, hidden, bias=False)
        self.length = linear(spec.n_radial, hidden, bias=False, gain=GEOMETRY_GAIN)
        self.interactions = nn.ModuleList(
            DimeNetInteraction(hidden, spec.n_radial, int(options["triplet_channels"]), n_spherical, norm)
            for _ in range(spec.layers)
        )
        self.outputs = nn.ModuleList(DimeNetOutput(hidden, spec.n_radial, norm) for _ in range(spec.layers + 1))

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`; DimeNet++ has no vectors of atoms."""
        n = z.shape[0]
        distance, direction = lengths_and_directions(vec)
        basis, _ = self.radial(distance)
        arriving = self.harmonics(direction)
        orders = len(arriving)
        # the norm of each order belongs to the smallest factor
        leaving = [x / math.sqrt((2 * order + 1) * orders) for order, x in enumerate(arriving)]
        x = self.embedding(z)
        ends = self.target(x).index_select(0, dst) + self.source(x).index_select(0, src)
        m = silu(torch.addmm(ends, basis, self.length.weight.t()))
        x = x + self.outputs[0](m, basis, dst, n)
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            m = interaction(m, basis, (arriving, leaving), src, dst, n)
            x = x + output(m, basis, dst, n)
        return x, None
