"""Small building blocks of all algorithms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_Z = 118
# Gain where species and distances enter one nonlinearity; without it the few, small distances have almost no effect
GEOMETRY_GAIN = 4.0


def linear(n_in: int, n_out: int, *, bias: bool = True, gain: float = 1.0) -> nn.Linear:
    """Return a linear layer with Xavier-uniform weights times ``gain`` and zero bias."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Return linear, SiLU, linear."""
    return nn.Sequential(linear(n_in, n_hidden), nn.SiLU(), linear(n_hidden, n_out))


def scatter_sum(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum rows of ``values`` [E, ...] that share an ``index`` [E]; rows without an index are zero [n, ...]."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, index, values)


def lengths_and_directions(vec: Tensor) -> tuple[Tensor, Tensor]:
    """Return edge lengths [E, 1] and unit vectors [E, 3] of edge vectors [E, 3]."""
    distance = (vec * vec).sum(-1, keepdim=True).sqrt()
    return distance, vec / distance


class Embedding(nn.Module):
    """One learned vector per chemical element (Z from 1 to 118)."""

    def __init__(self, hidden: int, deviation: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(deviation * torch.randn(MAX_Z, hidden))

    def forward(self, z: Tensor) -> Tensor:
        """Return features [N, H] of atomic numbers [N]."""
        return self.weight.index_select(0, z - 1)
