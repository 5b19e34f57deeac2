"""GATv2: attention over neighbours, with softmax weights that fade at the cutoff."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfm_pipeline.models.layers import GEOMETRY_GAIN, Embedding, lengths_and_directions, linear, mlp, scatter_sum, silu
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec


class Attention(nn.Module):
    """One GATv2 layer; ``share`` [heads, H] assigns channels to heads."""

    share: Tensor

    def __init__(self, hidden: int, n_radial: int, heads: int) -> None:
        super().__init__()
        self.target = linear(hidden, hidden)
        self.source = linear(hidden, hidden, bias=False)
        self.radial = linear(n_radial, hidden, bias=False, gain=GEOMETRY_GAIN)
        self.score = linear(hidden, heads, bias=False)
        self.value = linear(hidden, hidden)
        self.value_radial = linear(n_radial, hidden, bias=False, gain=GEOMETRY_GAIN)
        self.update = mlp(2 * hidden, hidden, hidden)
        head = torch.arange(hidden) * heads // hidden
        share = functional.one_hot(head, heads).t().to(torch.get_default_dtype())
        self.register_buffer("share", share, persistent=False)

    def forward(self, x: Tensor, basis: Tensor, envelope: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return the change of node features [N, H]."""
        n = x.shape[0]
        target, source, value = self.target(x), self.source(x), self.value(x)
        ends = target.index_select(0, dst) + source.index_select(0, src)
        score = self.score(silu(torch.addmm(ends, basis, self.radial.weight.t())))
        own = self.score(silu(target + source))
        # the same shift in every term of an atom's softmax: only a guard against overflow, so without gradient
        rows = dst.unsqueeze(1).expand_as(score)
        shift = own.detach().scatter_reduce(0, rows, score.detach(), "amax")
        weight = envelope * torch.exp(score - shift.index_select(0, dst))
        own = torch.exp(own - shift)
        total = own + scatter_sum(weight, dst, n)
        passed = torch.addmm(value.index_select(0, src), basis, self.value_radial.weight.t()) * (weight @ self.share)
        mean = (scatter_sum(passed, dst, n) + value * (own @ self.share)) / (total @ self.share)
        change: Tensor = self.update(torch.cat([x, mean], 1))
        return change


class GAT(MessagePassing):
    """Graph attention with dynamic scores (GATv2: Brody, Alon, Yahav, ICLR 2022), smooth.

    A softmax over neighbours jumps when a neighbour enters or leaves, most of all for the last one. Here the envelope
    multiplies each neighbour's exponential, and the atom itself, the self-loop of the paper, has full weight: a_ij =
    w_ij exp(s_ij) / (exp(s_ii) + sum_k w_ik exp(s_ik)). Scores and values depend on the distance through the radial
    basis. SiLU, whose derivatives exist, replaces leaky ReLU.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.embedding = Embedding(spec.hidden, deviation=0.5)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        heads = min(int(options["heads"]), spec.hidden)
        self.attentions = nn.ModuleList(Attention(spec.hidden, spec.n_radial, heads) for _ in range(spec.layers))

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`; GAT has no vectors."""
        distance, _ = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        x = self.embedding(z)
        for attention in self.attentions:
            x = x + attention(x, basis, envelope, src, dst)
        return x, None
