"""PaiNN: equivariant messages with scalar and vector features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.models.layers import Embedding, lengths_and_directions, linear, mlp, scatter_sum
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec

NORM_FLOOR = 1e-3  # keeps the curvature of |v| bounded where symmetry makes v vanish


class PaiNNMessage(nn.Module):
    """Equations 7 and 8 of the paper: filtered scalars, and vectors from directions and vectors."""

    def __init__(self, hidden: int, n_radial: int, norm: float, *, first: bool) -> None:
        super().__init__()
        self.parts = 2 if first else 3  # vectors are zero before the first layer, so there are none to send
        self.hidden, self.norm = hidden, norm
        self.phi = mlp(hidden, hidden, self.parts * hidden)
        self.filters = nn.ModuleList(linear(n_radial, hidden, bias=False, gain=2.0) for _ in range(self.parts))

    def forward(
        self, s: Tensor, v: Tensor | None, basis: Tensor, direction: Tensor, src: Tensor, dst: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the changes of scalars [N, H] and vectors [N, 3, H]."""
        n = s.shape[0]
        phi = (self.phi(s) * self.norm).split(self.hidden, 1)
        ds = scatter_sum(phi[0].index_select(0, src) * self.filters[0](basis), dst, n)
        pull = phi[1].index_select(0, src) * self.filters[1](basis)
        push = direction.unsqueeze(2) * pull.unsqueeze(1)
        if v is not None:
            carried = (phi[2].unsqueeze(1) * v).index_select(0, src)
            push = push + carried * self.filters[2](basis).unsqueeze(1)
        return ds, scatter_sum(push, dst, n)


class Update(nn.Module):
    """Equations 9 and 10: scalars and vectors of one atom mix; vector maps have no bias, so they rotate."""

    def __init__(self, hidden: int, *, keep_vectors: bool) -> None:
        super().__init__()
        self.hidden, self.keep_vectors = hidden, keep_vectors
        self.mix = linear(hidden, 2 * hidden, bias=False)
        self.gate = mlp(2 * hidden, hidden, (3 if keep_vectors else 2) * hidden)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new scalars [N, H] and vectors [N, 3, H]."""
        u, w = self.mix(v).split(self.hidden, 2)
        length = ((w * w).sum(1) + NORM_FLOOR).sqrt()
        gate = self.gate(torch.cat([s, length], 1)).split(self.hidden, 1)
        s = s + gate[0] + gate[1] * (u * w).sum(1)
        return s, v + gate[2].unsqueeze(1) * u if self.keep_vectors else v


class PaiNN(MessagePassing):
    """Polarizable atom interaction network (Schuett, Unke, Gastegger, ICML 2021)."""

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.embedding = Embedding(spec.hidden, deviation=0.5)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        self.returns_vectors = spec.reads_vectors
        self.messages = nn.ModuleList(
            PaiNNMessage(spec.hidden, spec.n_radial, norm, first=k == 0) for k in range(spec.layers)
        )
        # only heads of vectors read the last vectors: without such a head their parameters would never learn
        self.updates = nn.ModuleList(
            Update(spec.hidden, keep_vectors=self.returns_vectors or k + 1 < spec.layers) for k in range(spec.layers)
        )

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`."""
        distance, direction = lengths_and_directions(vec)
        basis, _ = self.radial(distance)
        s = self.embedding(z)
        v: Tensor | None = None
        for message, update in zip(self.messages, self.updates, strict=True):
            ds, dv = message(s, v, basis, direction, src, dst)
            s, v = update(s + ds, dv if v is None else v + dv)
        return s, v if self.returns_vectors else None
