"""SchNet: continuous-filter convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gfm_pipeline.models.layers import Embedding, lengths_and_directions, linear, mlp, scatter_sum
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec


class SchNetInteraction(nn.Module):
    """One continuous-filter convolution and the atom-wise layers after it."""

    def __init__(self, hidden: int, n_radial: int, filter_hidden: int, norm: float) -> None:
        super().__init__()
        self.norm = norm
        self.inward = linear(hidden, hidden, bias=False)
        self.filter: nn.Module = (
            mlp(n_radial, filter_hidden, hidden) if filter_hidden else linear(n_radial, hidden, bias=False, gain=2.0)
        )
        self.outward = mlp(hidden, hidden, hidden)
        # a bias-free linear filter of a basis with an envelope needs no second one
        self.envelope_in_basis = not filter_hidden

    def forward(self, x: Tensor, basis: Tensor, envelope: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return the change of node features [N, H]."""
        weights = self.filter(basis) if self.envelope_in_basis else self.filter(basis) * envelope
        message = self.inward(x * self.norm).index_select(0, src) * weights
        change: Tensor = self.outward(scatter_sum(message, dst, x.shape[0]))
        return change


class SchNet(MessagePassing):
    """SchNet (Schuett et al., J. Chem. Phys. 148, 241722, 2018).

    The filter is linear in the radial basis unless ``filter_hidden`` is positive: then it is the paper's
    two-layer network of that width. The linear one costs a third and, with a Bessel basis, loses little.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.embedding = Embedding(spec.hidden)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        width = int(options["filter_hidden"])
        self.interactions = nn.ModuleList(
            SchNetInteraction(spec.hidden, spec.n_radial, width, norm) for _ in range(spec.layers)
        )

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`; SchNet has no vectors."""
        distance, _ = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        x = self.embedding(z)
        for interaction in self.interactions:
            x = x + interaction(x, basis, envelope, src, dst)
        return x, None
