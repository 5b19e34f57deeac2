"""PNAEq: PaiNN with the aggregators of PNA for scalar messages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.models.layers import GEOMETRY_GAIN, Embedding, lengths_and_directions, linear, mlp, scatter_sum, silu
from gfm_pipeline.models.message_passing.painn import Update
from gfm_pipeline.models.message_passing.pna import PARTS, Aggregators
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec


class PNAEqMessage(nn.Module):
    """Scalars by PNA's aggregators; vectors by sums, since a maximum of vectors would not rotate with them."""

    def __init__(self, hidden: int, n_radial: int, norm: float, aggregators: Aggregators, *, first: bool) -> None:
        super().__init__()
        self.parts = 1 if first else 2  # vectors are zero before the first layer, so there are none to send
        self.hidden, self.norm, self.aggregators = hidden, norm, aggregators
        self.target = linear(hidden, hidden)
        self.source = linear(hidden, hidden, bias=False)
        self.radial = linear(n_radial, hidden, bias=False, gain=GEOMETRY_GAIN)
        self.mix = linear(PARTS * hidden, hidden)
        self.phi = mlp(hidden, hidden, self.parts * hidden)
        self.filters = nn.ModuleList(linear(n_radial, hidden, bias=False, gain=2.0) for _ in range(self.parts))

    def forward(
        self,
        s: Tensor,
        v: Tensor | None,
        edges: tuple[Tensor, Tensor, Tensor],
        degree: Tensor,
        src: Tensor,
        dst: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the changes of scalars [N, H] and vectors [N, 3, H]; ``edges`` are basis, envelope and direction."""
        basis, envelope, direction = edges
        ends = self.target(s).index_select(0, dst) + self.source(s).index_select(0, src)
        raw = torch.addmm(ends, basis, self.radial.weight.t())
        gate = torch.sigmoid(raw)
        ds = self.aggregators(raw * gate, gate, envelope, degree, dst, self.mix)
        phi = (self.phi(s) * self.norm).split(self.hidden, 1)
        push = direction.unsqueeze(2) * (phi[0].index_select(0, src) * self.filters[0](basis)).unsqueeze(1)
        if v is not None:
            carried = (phi[1].unsqueeze(1) * v).index_select(0, src)
            push = push + carried * self.filters[1](basis).unsqueeze(1)
        return silu(ds), scatter_sum(push, dst, s.shape[0])


class PNAEq(MessagePassing):
    """PaiNN (Schuett et al., ICML 2021) with the aggregators of PNA (Corso et al., 2020), as HydraGNN combines them.

    The aggregators are the smooth ones of `gfm_pipeline.models.message_passing.pna.Aggregators`, and vectors pass
    linear maps without bias only, so that energies neither jump at the cutoff nor depend on the orientation.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.embedding = Embedding(spec.hidden, deviation=0.5)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        aggregators = Aggregators(float(options["sharpness"]), spec.avg_log_degree)
        self.returns_vectors = spec.reads_vectors
        self.messages = nn.ModuleList(
            PNAEqMessage(spec.hidden, spec.n_radial, norm, aggregators, first=k == 0) for k in range(spec.layers)
        )
        # as in PaiNN, only heads of vectors read the last vectors
        self.updates = nn.ModuleList(
            Update(spec.hidden, keep_vectors=self.returns_vectors or k + 1 < spec.layers) for k in range(spec.layers)
        )

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`."""
        distance, direction = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        degree = scatter_sum(envelope, dst, z.shape[0])
        s = self.embedding(z)
        v: Tensor | None = None
        for message, update in zip(self.messages, self.updates, strict=True):
            ds, dv = message(s, v, (basis, envelope, direction), degree, src, dst)
            s, v = update(s + ds, dv if v is None else v + dv)
        return s, v if self.returns_vectors else None
