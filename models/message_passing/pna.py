"""PNA: several aggregators and degree scalers, made smooth in the positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfm_pipeline.models.layers import GEOMETRY_GAIN, Embedding, lengths_and_directions, linear, mlp, scatter_sum
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec

STD_FLOOR = 1e-2  # keeps the slope of the square root bounded where all messages are equal
AGGREGATORS, SCALERS = 4, 3
PARTS = AGGREGATORS * SCALERS


class Aggregators:
    """The aggregators and scalers of PNA; none jumps when a neighbour enters or leaves.

    With w_ij the envelope, D_i = sum_j w_ij the smooth degree and m_ij the message:

    - mean: sum w m / (1 + D), as if one more neighbour sent zero, so that the mean fades with the last neighbour;
    - standard deviation: of the same weighted sample, less its value at no neighbours;
    - maximum and minimum: log(1 + sum w (exp(b t) - 1)) / b with t the message's bounded gate in (0, 1), and the
      same of 1 - t: smooth, zero without neighbours, the hard extremes for large ``sharpness`` b;
    - scalers: 1, log(1 + D) / delta and (1 + delta) / (1 + log(1 + D)), delta the training mean of log(1 + degree).
    """

    def __init__(self, sharpness: float, delta: float) -> None:
        self.sharpness, self.delta = sharpness, delta

    def __call__(
        self, message: Tensor, gate: Tensor, envelope: Tensor, degree: Tensor, dst: Tensor, mix: nn.Linear
    ) -> Tensor:
        """Return the 12 aggregated and scaled messages after their linear layer ``mix`` (12 H inputs) [N, H].

        Parameters
        ----------
        message, gate
            Messages, and gates in (0, 1) [E, H].
        envelope
            Of each edge [E, 1].
        degree
            Smooth degrees D [N, 1].
        dst
            Atom that receives [E].
        mix
            Its inputs are ordered by scaler, then aggregator.
        """
        n, b = degree.shape[0], self.sharpness
        rise = torch.exp(b * gate)
        weighted = message * envelope
        # Four sums, and not one of four parts side by side: the third derivative pass of a concatenation would fill
        # a tensor of zeros as wide as all parts for every one of them.
        total, square = scatter_sum(weighted, dst, n), scatter_sum(weighted * message, dst, n)
        high, low = scatter_sum(envelope * rise, dst, n), scatter_sum(envelope * (math.exp(b) / rise), dst, n)
        weight = 1.0 / (1.0 + degree)
        mean = total * weight
        std = (square * weight - mean * mean + STD_FLOOR).sqrt() - math.sqrt(STD_FLOOR)
        extremes = [torch.log1p((high - degree).clamp(min=0.0)) / b, torch.log1p((low - degree).clamp(min=0.0)) / b]
        return self._mixed(torch.cat([mean, std, *extremes], 1), torch.log1p(degree), mix)

    def _mixed(self, found: Tensor, log_degree: Tensor, mix: nn.Linear) -> Tensor:
        """Return ``mix`` of aggregates [N, 4 H] times each scaler: factors of rows, so they may follow the product."""
        width = mix.out_features
        weight = mix.weight.view(width, SCALERS, -1).transpose(0, 1).reshape(SCALERS * width, -1)
        plain, amplified, attenuated = functional.linear(found, weight).chunk(SCALERS, 1)
        mixed: Tensor = plain + amplified * (log_degree / self.delta)
        return mixed + attenuated * ((1.0 + self.delta) / (1.0 + log_degree)) + mix.bias


class Aggregation(nn.Module):
    """One PNA layer; with ``filtered``, a filter of the distance multiplies messages, as in PNAPlus."""

    def __init__(self, hidden: int, n_radial: int, aggregators: Aggregators, *, filtered: bool = False) -> None:
        super().__init__()
        self.aggregators = aggregators
        self.target = linear(hidden, hidden)
        self.source = linear(hidden, hidden, bias=False)
        self.radial = linear(n_radial, hidden, bias=False, gain=GEOMETRY_GAIN)
        self.mix = linear(PARTS * hidden, hidden)
        self.update = mlp(2 * hidden, hidden, hidden)
        self.filter = linear(n_radial, hidden, bias=False, gain=2.0) if filtered else None

    def forward(self, x: Tensor, basis: Tensor, envelope: Tensor, degree: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return the change of node features [N, H]; ``degree`` is D [N, 1]."""
        ends = self.target(x).index_select(0, dst) + self.source(x).index_select(0, src)
        raw = torch.addmm(ends, basis, self.radial.weight.t())
        gate = torch.sigmoid(raw)
        message = raw * gate
        if self.filter is not None:
            message = message * self.filter(basis)
        aggregated = self.aggregators(message, gate, envelope, degree, dst, self.mix)
        change: Tensor = self.update(torch.cat([x, aggregated], 1))
        return change


class PNA(MessagePassing):
    """Principal neighbourhood aggregation (Corso et al., NeurIPS 2020), smooth; see `Aggregators`."""

    filtered = False

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.embedding = Embedding(spec.hidden, deviation=0.5)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        aggregators = Aggregators(float(options["sharpness"]), spec.avg_log_degree)
        self.aggregations = nn.ModuleList(
            Aggregation(spec.hidden, spec.n_radial, aggregators, filtered=self.filtered) for _ in range(spec.layers)
        )

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`; PNA has no vectors."""
        distance, _ = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        degree = scatter_sum(envelope, dst, z.shape[0])
        x = self.embedding(z)
        for aggregation in self.aggregations:
            x = x + aggregation(x, basis, envelope, degree, src, dst)
        return x, None
