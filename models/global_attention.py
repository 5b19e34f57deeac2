"""Attention between all atoms of a structure, in addition to message passing within the cutoff."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import linear, mlp, scatter_sum

HEADS = 4
_TINY = 1e-6  # keeps the sum of weights from zero


class GlobalAttention(nn.Module):
    """The global half of a GPS layer (Rampasek et al., NeurIPS 2022) on the scalars of atoms.

    Attention is linear (Katharopoulos et al., ICML 2020). Its kernel is softplus, so that derivatives exist. Its cost
    grows linearly with the number of atoms, and sums over structures need no padding and no host synchronisation.
    Weights do not depend on distance, so the energies of two distant structures no longer add up. The sum does not
    exist for an infinite structure, so structures with a periodic direction stay unchanged.

    Parameters
    ----------
    hidden
        Width of the scalars.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(min(HEADS, hidden), 0, -1) if hidden % n == 0)
        self.query, self.key, self.value = (linear(hidden, hidden, bias=False) for _ in range(3))
        self.outward = linear(hidden, hidden, bias=False, gain=0.5)
        self.update = mlp(hidden, hidden, hidden)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """Return scalars [N, H]; in structures without periodicity they depend on all atoms of the structure."""
        attended: Tensor = self.outward(self.attended(x, batch))
        change: Tensor = attended + self.update(x + attended)
        if batch.cell is None:
            return x + change
        finite = (batch.cell == 0).flatten(1).all(1).to(x.dtype).index_select(0, batch.graph)
        return x + change * finite.unsqueeze(1)

    def attended(self, x: Tensor, batch: Batch) -> Tensor:
        """Return the mean of the values of a structure's atoms, with the weights of each atom [N, H]."""
        shape = (x.shape[0], self.heads, x.shape[1] // self.heads)
        query, key = (functional.softplus(part(x)).view(shape) for part in (self.query, self.key))
        value = self.value(x).view(shape)
        n = batch.natoms.shape[0]
        pairs = scatter_sum(key.unsqueeze(3) * value.unsqueeze(2), batch.graph, n).index_select(0, batch.graph)
        total = scatter_sum(key, batch.graph, n).index_select(0, batch.graph)
        weight = (query * total).sum(2, keepdim=True) + _TINY
        return (torch.einsum("nhi,nhij->nhj", query, pairs) / weight).reshape(x.shape)
