"""MACE: products of an atom's neighbourhood with itself give many-body messages in few layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.models.equivariant import OrderLinear, TensorConvolution, vectors_of
from gfm_pipeline.models.layers import MAX_Z, Embedding, lengths_and_directions, linear
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec
from gfm_pipeline.models.spherical import Constant, SphericalHarmonics, monomials, symmetric_basis


class SymmetricContraction(nn.Module):
    """All symmetric products of up to ``correlation`` factors of an atom's basis A, with weights per element.

    ``couplings`` [components, monomials] holds the orthonormal, complete sets of `symmetric_basis`. Each set acts on
    the distinct products of components. These are fewer than the entries of the tensors of generalised Clebsch-Gordan
    coefficients by the number of permutations. Then follows one weight per element, path and channel.
    """

    def __init__(self, l_max: int, correlation: int, out_orders: int, channels: int) -> None:
        super().__init__()
        self.correlation = correlation
        n = (l_max + 1) ** 2
        blocks: list[Tensor] = []
        size: list[float] = []  # of initial weights: products of one degree add up to order one
        self.paths: list[int] = []  # of each order
        for order in range(out_orders):
            sets = [torch.from_numpy(symmetric_basis(l_max, degree, order)) for degree in range(1, correlation + 1)]
            columns = sum(part.shape[2] for part in sets)
            self.paths.append(sum(part.shape[0] for part in sets))
            start = 0
            for part in sets:
                block = torch.zeros(part.shape[0], 2 * order + 1, columns, dtype=torch.float64)
                block[:, :, start : start + part.shape[2]] = part
                start += part.shape[2]
                size += [1.0 / max(1, part.shape[0])] * part.shape[0]
                blocks.append(block.flatten(0, 1))
        self.couplings = Constant(torch.cat(blocks))
        place = {pair: k for k, pair in enumerate(monomials(n, 2))}
        pairs, triples = torch.tensor(monomials(n, 2)).t(), monomials(n, 3)
        firsts = torch.tensor([place[i, j] for i, j, _ in triples])
        for name, index in {
            "left": pairs[0], "right": pairs[1], "pair": firsts, "third": torch.tensor([t[2] for t in triples]),
        }.items():  # fmt: skip
            self.register_buffer(name, index.contiguous(), persistent=False)
        self.weight = nn.Parameter(torch.randn(MAX_Z, len(size), channels) * torch.tensor(size).unsqueeze(1))

    def forward(self, basis: Tensor, z: Tensor) -> list[Tensor]:
        """Return features of each order from A [N, (l_max + 1)**2, C]."""
        products = [basis]
        if self.correlation > 1:
            pick = self.get_buffer
            products.append(basis.index_select(1, pick("left")) * basis.index_select(1, pick("right")))
            if self.correlation > 2:
                third = basis.index_select(1, pick("third"))
                products.append(products[1].index_select(1, pick("pair")) * third)
        coupled = torch.matmul(self.couplings(), torch.cat(products, 1))  # [N, components, C]
        weights = torch.split(self.weight.index_select(0, z - 1), self.paths, 1)
        found, start = [], 0
        for order, (count, weight) in enumerate(zip(self.paths, weights, strict=True)):
            size = count * (2 * order + 1)
            paths = coupled[:, start : start + size].reshape(z.shape[0], count, 2 * order + 1, -1)
            found.append((paths * weight.unsqueeze(2)).sum(1))
            start += size
        return found


class MACEInteraction(nn.Module):
    """One layer: A from the neighbours, its symmetric products, and the atom's previous features."""

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any], in_orders: int, out_orders: int) -> None:
        super().__init__()
        width, l_max = spec.hidden, int(options["l_max"])
        self.inward = OrderLinear(in_orders, width, width)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        self.convolution = TensorConvolution(
            in_orders, l_max + 1, l_max, width, spec.n_radial, int(options["radial_hidden"]), norm, options["kernels"]
        )
        self.products = SymmetricContraction(l_max, int(options["correlation"]), out_orders, width)
        self.outward = OrderLinear(out_orders, width, width)
        self.skip = OrderLinear(min(in_orders, out_orders), width, width, by_element=True)

    def forward(
        self, features: list[Tensor], z: Tensor, harmonics: Tensor, basis: Tensor, src: Tensor, dst: Tensor
    ) -> list[Tensor]:
        """Return the new features."""
        around = self.convolution(self.inward(features), harmonics, basis, src, dst)
        new = self.outward(self.products(torch.cat(around, 1), z))
        residual = self.skip(features, z)
        return [x + residual[order] if order < len(residual) else x for order, x in enumerate(new)]


class MACE(MessagePassing):
    """Higher order equivariant message passing (Batatia, Kovacs, Simm, Ortner, Csanyi, NeurIPS 2022).

    Each layer projects an atom's neighbours onto spherical harmonics (A), and forms all symmetric equivariant products
    of up to ``correlation`` factors of A (B). So messages have body order ``correlation`` + 1 without a list of
    triplets. As in the paper, product weights are per element and the readout reads the scalars of every layer. Unlike
    the paper, the skip connection of a layer is a matrix times a factor per element and channel, instead of a matrix
    per element.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.returns_vectors = spec.reads_vectors
        self.embedding = Embedding(spec.hidden)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        self.harmonics = SphericalHarmonics(int(options["l_max"]))
        orders = [1, *[int(options["hidden_l"]) + 1] * (spec.layers - 1), 2 if self.returns_vectors else 1]
        self.interactions = nn.ModuleList(
            MACEInteraction(spec, options, before, after) for before, after in pairwise(orders)
        )
        self.scalars = nn.ModuleList(linear(spec.hidden, spec.hidden) for _ in range(spec.layers))

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`."""
        distance, direction = lengths_and_directions(vec)
        basis, _ = self.radial(distance)
        harmonics = torch.cat(self.harmonics(direction), 1)
        x = self.embedding(z)
        features, read = [x.unsqueeze(1)], x
        for interaction, scalars in zip(self.interactions, self.scalars, strict=True):
            features = interaction(features, z, harmonics, basis, src, dst)
            read = read + scalars(features[0].squeeze(1))
        return read, vectors_of(features) if self.returns_vectors else None
