"""NequIP: equivariant convolutions with gates, of any order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.models.equivariant import OrderLinear, TensorConvolution, vectors_of
from gfm_pipeline.models.layers import Embedding, lengths_and_directions, linear, silu
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec
from gfm_pipeline.models.spherical import SphericalHarmonics


class NequIPInteraction(nn.Module):
    """One layer: convolution, the atom's own features, and gates, by which scalars scale the higher orders."""

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any], in_orders: int, out_orders: int) -> None:
        super().__init__()
        width, l_max = spec.hidden, int(options["l_max"])
        self.inward = OrderLinear(in_orders, width, width)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        self.convolution = TensorConvolution(
            in_orders, out_orders, l_max, width, spec.n_radial, int(options["radial_hidden"]), norm, options["kernels"]
        )
        self.skip = OrderLinear(min(in_orders, out_orders), width, width, by_element=True)
        self.gates = linear(width, out_orders * width)

    def forward(
        self, features: list[Tensor], z: Tensor, harmonics: Tensor, basis: Tensor, src: Tensor, dst: Tensor
    ) -> list[Tensor]:
        """Return the new features."""
        around = self.convolution(self.inward(features), harmonics, basis, src, dst)
        residual = self.skip(features, z)
        both = [x + residual[order] if order < len(residual) else x for order, x in enumerate(around)]
        scalars, *gates = self.gates(both[0]).chunk(len(both), 2)
        new = [silu(scalars), *(x * torch.sigmoid(g) for x, g in zip(both[1:], gates, strict=True))]
        return [x + features[order] if order < len(features) else x for order, x in enumerate(new)]


class NequIP(MessagePassing):
    """E(3)-equivariant interatomic potential (Batzner et al., Nat. Commun. 13, 2453, 2022).

    Features of orders 0 to ``l_max``, each of parity (-1)**l; the convolution couples them with harmonics of the same
    orders along every path that parity allows. Layers add to their input. The skip connection of a layer is a matrix
    times a factor per element and channel, instead of a matrix per element.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.returns_vectors = spec.reads_vectors
        l_max = int(options["l_max"])
        self.embedding = Embedding(spec.hidden)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        self.harmonics = SphericalHarmonics(l_max)
        # the last layer returns the input of the heads: scalars, and vectors if a head reads them
        orders = [1, *[l_max + 1] * (spec.layers - 1), 2 if self.returns_vectors else 1]
        self.interactions = nn.ModuleList(
            NequIPInteraction(spec, options, before, after) for before, after in pairwise(orders)
        )

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`."""
        distance, direction = lengths_and_directions(vec)
        basis, _ = self.radial(distance)
        harmonics = torch.cat(self.harmonics(direction), 1)
        features = [self.embedding(z).unsqueeze(1)]
        for interaction in self.interactions:
            features = interaction(features, z, harmonics, basis, src, dst)
        return features[0].squeeze(1), vectors_of(features) if self.returns_vectors else None
