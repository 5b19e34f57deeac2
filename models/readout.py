"""Heads, one per dataset: stacked parameters compute all of them, and a gather picks one.

Stacked parameters need no loop over datasets and no host synchronisation, and every parameter has a gradient
(zero for a head whose dataset is not in the batch).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.targets import Rank
from gfm_pipeline.models.layers import GEOMETRY_GAIN, lengths_and_directions, linear, scatter_sum, silu
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.spec import ModelSpec

DEVIATIONS = "energy deviations"  # [G, K], eV, among the values of a model with a shallow ensemble


@dataclass(frozen=True)
class Features:
    """Input of heads per atom: scalars [N, H], vectors [N, 3, H], traceless tensors [N, 6, H]; None: not read."""

    scalars: Tensor
    vectors: Tensor | None = None
    tensors: Tensor | None = None


def _stacked(n: int, n_in: int, n_out: int, gain: float = 1.0) -> nn.Parameter:
    bound = gain * math.sqrt(6.0 / (n_in + n_out))
    return nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-bound, bound))


class ScalarHead(nn.Module):
    """One number per atom, from a two-layer network per dataset.

    ``offset``: whether the last layer has a bias. A constraint on the sum over all atoms would remove it.
    ``shallow``: number of last layers, a shallow ensemble whose mean is the value (Kellner and Ceriotti, MLST 5, 035006
    (2024)). The mean has a layer of its own. The deviations from it learn to be as large as its errors, and their loss
    changes neither the mean nor the layers before, so a shallow ensemble costs no accuracy.
    """

    def __init__(self, hidden: int, n_datasets: int, *, offset: bool = True, shallow: int = 1) -> None:
        super().__init__()
        self.weight1 = _stacked(n_datasets, hidden, hidden)
        self.bias1 = nn.Parameter(torch.zeros(n_datasets, 1, hidden))
        # start near the references
        self.weight2 = _stacked(n_datasets, hidden, 1, gain=0.1)
        self.bias2 = nn.Parameter(torch.zeros(n_datasets, 1, 1)) if offset else None
        # a shallow ensemble is stored as mean and deviations, so that all else sees one last layer
        self.shallow = nn.Parameter(_centred(torch.randn(n_datasets, hidden, shallow))) if shallow > 1 else None

    def forward(self, features: Features, head: Tensor) -> Tensor:
        """Return scalars [N] for the dataset ``head`` [N] of each atom."""
        value = torch.matmul(self._hidden(features), self.weight2)  # [B, N, 1]
        if self.bias2 is not None:
            value = value + self.bias2
        if value.shape[0] == 1:
            return value.reshape(-1)
        return value.squeeze(2).t().gather(1, head.unsqueeze(1)).squeeze(1)

    def deviations(self, features: Features, head: Tensor, *, learning: bool) -> Tensor:
        """Return the value of each of K last layers less their mean, for each atom [N, K].

        ``learning``: without a gradient to the layers before.
        """
        if self.shallow is None:
            raise ValueError("this head has a single last layer")
        hidden = self._hidden(features)
        centred = self.shallow - self.shallow.mean(2, keepdim=True)
        of_all = torch.matmul(hidden.detach() if learning else hidden, centred)  # [B, N, K]
        return of_all.gather(0, head.view(1, -1, 1).expand(1, -1, of_all.shape[2])).squeeze(0)

    def last_layer(self, features: Features, head: Tensor) -> Tensor:
        """Return the input of the last linear layer for each atom [N, H] and its dataset ``head`` [N]."""
        hidden = self._hidden(features)
        return hidden.gather(0, head.view(1, -1, 1).expand(1, -1, hidden.shape[2])).squeeze(0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.bias2 is None:  # checkpoints from before 2026-11-30 have one, without effect
            state_dict.pop(f"{prefix}bias2", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _hidden(self, features: Features) -> Tensor:
        return silu(torch.matmul(features.scalars, self.weight1) + self.bias1)


def _centred(drawn: Tensor) -> Tensor:
    """Return the first deviations of last layers [B, H, K], small as the first last layer."""
    return 0.1 * (drawn - drawn.mean(2, keepdim=True)) / math.sqrt(drawn.shape[1])


class Gate(nn.Module):
    """Weights of the channels of each atom, from a two-layer network per dataset without last bias."""

    def __init__(self, hidden: int, n_datasets: int) -> None:
        super().__init__()
        self.weight1 = _stacked(n_datasets, hidden, hidden)
        self.bias1 = nn.Parameter(torch.zeros(n_datasets, 1, hidden))
        self.weight2 = _stacked(n_datasets, hidden, hidden)

    def gated(self, x: Tensor, values: Tensor, head: Tensor) -> Tensor:
        """Return sums over channels [N, K] of ``values`` [N, K, H], weighted by scalars ``x`` [N, H]."""
        gate = torch.matmul(silu(torch.matmul(x, self.weight1) + self.bias1), self.weight2)  # [B, N, H]
        chosen = gate.gather(0, head.view(1, -1, 1).expand(1, -1, gate.shape[2])).squeeze(0)
        return (values * chosen.unsqueeze(1)).sum(2) / math.sqrt(gate.shape[2])


class VectorHead(Gate):
    """One vector per atom, a gated sum of vector features; equivariant."""

    def forward(self, features: Features, head: Tensor) -> Tensor:
        """Return vectors [N, 3]."""
        return self.gated(features.scalars, _there(features.vectors), head)


class TensorHead(Gate):
    """One symmetric tensor per atom: a gated sum of traceless tensor features, and a scalar times the unit tensor."""

    def __init__(self, hidden: int, n_datasets: int) -> None:
        super().__init__(hidden, n_datasets)
        self.isotropic = ScalarHead(hidden, n_datasets)

    def forward(self, features: Features, head: Tensor) -> Tensor:
        """Return tensors [N, 3, 3]."""
        xx, yy, zz, yz, xz, xy = self.gated(features.scalars, _there(features.tensors), head).unbind(1)
        mean = self.isotropic(features, head)
        return torch.stack([xx + mean, xy, xz, xy, yy + mean, yz, xz, yz, zz + mean], 1).view(-1, 3, 3)


HEADS: dict[Rank, type[ScalarHead | VectorHead | TensorHead]] = {
    Rank.SCALAR: ScalarHead,
    Rank.VECTOR: VectorHead,
    Rank.TENSOR: TensorHead,
}


class EdgeFeatures(nn.Module):
    """Weights of edge directions: a network of both end points and of the length, smooth at the cutoff."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        self.norm = 1.0 / math.sqrt(spec.avg_neighbours)
        self.target = linear(spec.hidden, spec.hidden)
        self.source = linear(spec.hidden, spec.hidden, bias=False)
        self.basis = linear(spec.n_radial, spec.hidden, bias=False, gain=GEOMETRY_GAIN)

    def weighted(self, x: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [E, H] and directions [E, 3] of edges."""
        distance, direction = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        ends = self.target(x).index_select(0, dst) + self.source(x).index_select(0, src)
        weight = silu(torch.addmm(ends, basis, self.basis.weight.t())) * (envelope * self.norm)
        return weight, direction


class EdgeVectors(EdgeFeatures):
    """Vector features for algorithms without vectors: weighted sums of edge directions."""

    def forward(self, x: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return vectors [N, 3, H]."""
        weight, direction = self.weighted(x, vec, src, dst)
        return scatter_sum(direction.unsqueeze(2) * weight.unsqueeze(1), dst, x.shape[0])


class EdgeTensors(EdgeFeatures):
    """Tensor features: weighted sums of outer products of edge directions, less their trace.

    Unlike products of an atom's vector features, they do not vanish at centres of inversion.
    """

    def forward(self, x: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return the elements xx, yy, zz, yz, xz, xy of traceless symmetric tensors [N, 6, H]."""
        weight, direction = self.weighted(x, vec, src, dst)
        a, b, c = direction.unbind(1)
        product = torch.stack([a * a - 1 / 3, b * b - 1 / 3, c * c - 1 / 3, b * c, a * c, a * b], 1)
        return scatter_sum(product.unsqueeze(2) * weight.unsqueeze(1), dst, x.shape[0])


def _there(features: Tensor | None) -> Tensor:
    if features is None:
        raise ValueError("no features of this rank were computed")
    return features
