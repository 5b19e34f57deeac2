"""Pieces of networks whose features are spherical tensors of orders 0, 1, 2, ...

Features are a list with one tensor [N, 2l + 1, C] for each order l, all with C channels; see
`gfm_pipeline.models.spherical` for components and parity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_pipeline.models.layers import MAX_Z, SiLU, linear, scatter_sum
from gfm_pipeline.models.message_passing.fused_convolution import convolve, method_for
from gfm_pipeline.models.spherical import XYZ, Constant, couples, coupling, offsets


def radial_network(n_radial: int, hidden: int, n_out: int) -> nn.Module:
    """Return a network without biases on the faded basis: its output fades with its input, to the same order."""
    if not hidden:
        return linear(n_radial, n_out, bias=False, gain=2.0)
    first, last = linear(n_radial, hidden, bias=False, gain=2.0), linear(hidden, n_out, bias=False)
    return nn.Sequential(first, SiLU(), last)


def vectors_of(features: list[Tensor]) -> Tensor:
    """Return the order-one features as vectors [N, 3, C] in x, y, z."""
    return torch.stack([features[1][:, k] for k in XYZ], 1)


class OrderLinear(nn.Module):
    """A matrix without bias for each order, times a factor for each element and channel if ``by_element``."""

    def __init__(self, orders: int, n_in: int, n_out: int, *, by_element: bool = False) -> None:
        super().__init__()
        self.maps = nn.ModuleList(linear(n_in, n_out, bias=False) for _ in range(orders))
        self.factor = nn.Parameter(1.0 + 0.1 * torch.randn(MAX_Z, orders * n_out)) if by_element else None

    def forward(self, features: list[Tensor], z: Tensor | None = None) -> list[Tensor]:
        """Return the mapped features of the orders that have a matrix; ``z`` [N] where elements have factors."""
        mapped = [layer(x) for layer, x in zip(self.maps, features, strict=False)]
        if self.factor is None or z is None:
            return mapped
        factors = self.factor.index_select(0, z - 1).chunk(len(self.maps), 1)
        return [x * factor.unsqueeze(1) for x, factor in zip(mapped, factors, strict=False)]


class TensorConvolution(nn.Module):
    """The sum over neighbours of features times spherical harmonics of the direction and functions of the distance.

    Each order of the neighbour, coupled to each order of the harmonics, yields every order up to ``out_orders - 1``
    that parity allows. Each such path has its own radial functions. Paths of one order are mixed after the sum.

    Parameters
    ----------
    in_orders, out_orders
        Number of orders of the features before and after.
    l_max
        Largest order of the harmonics.
    channels, n_radial
        Numbers of channels C and radial functions.
    radial_hidden
        Width of the network for the radial functions of a path; 0: they are linear in the basis.
    norm
        Factor of the sum.
    kernels
        ``cuequivariance``: where that package is installed, its kernels compute the products on GPUs of NVIDIA.
    """

    def __init__(
        self,
        in_orders: int,
        out_orders: int,
        l_max: int,
        channels: int,
        n_radial: int,
        radial_hidden: int,
        norm: float,
        kernels: str = "torch",
    ) -> None:
        super().__init__()
        self.channels, self.norm, self.kernels = channels, norm, kernels
        harmonics = offsets(l_max)
        self.couplings = nn.ModuleList()
        self.paths: list[list[tuple[int, slice]]] = []  # for each order of neighbours: resulting order, and rows
        for l1 in range(in_orders):
            rows: list[tuple[int, slice]] = []
            blocks: list[Tensor] = []
            for l2 in range(l_max + 1):
                for l3 in range(out_orders):
                    if couples(l1, l2, l3):
                        block = torch.zeros((l_max + 1) ** 2, 2 * l3 + 1, 2 * l1 + 1, dtype=torch.float64)
                        block[harmonics[l2]] = torch.from_numpy(coupling(l1, l2, l3)).permute(1, 2, 0)
                        start = rows[-1][1].stop if rows else 0
                        rows.append((l3, slice(start, start + 2 * l3 + 1)))
                        blocks.append(block)
            self.paths.append(rows)
            self.couplings.append(Constant(torch.cat(blocks, 1).flatten(1)))
        self.radial = radial_network(n_radial, radial_hidden, sum(map(len, self.paths)) * channels)
        per_order = [sum(l3 == order for rows in self.paths for l3, _ in rows) for order in range(out_orders)]
        self.mix = nn.ModuleList(linear(n * channels, channels, bias=False) for n in per_order)

    def forward(
        self, features: list[Tensor], harmonics: Tensor, basis: Tensor, src: Tensor, dst: Tensor
    ) -> list[Tensor]:
        """Return features of orders 0 to ``out_orders - 1`` from harmonics [E, (l_max + 1)**2] and basis [E, R]."""
        weights = (self.radial(basis) * self.norm).unflatten(1, (-1, self.channels))
        method = method_for(harmonics.device) if self.kernels != "torch" else None
        if method is None:
            summed = self._convolve(weights, features, harmonics, src, dst)
        else:
            paths = tuple(tuple(l3 for l3, _ in rows) for rows in self.paths)
            constants = [constant() for constant in self.couplings]
            summed = convolve(paths, constants, (weights, features, harmonics), (src, dst), method)
        sums: list[list[Tensor]] = [[] for _ in self.mix]
        for rows, found in zip(self.paths, summed, strict=True):
            for l3, place in rows:
                sums[l3].append(found[:, place])
        return [mix(torch.cat(parts, 2)) for mix, parts in zip(self.mix, sums, strict=True)]

    def _convolve(
        self, weights: Tensor, features: list[Tensor], harmonics: Tensor, src: Tensor, dst: Tensor
    ) -> list[Tensor]:
        """Return the sums over neighbours [N, rows, C] for each order of neighbours."""
        of_paths, summed = iter(weights.unbind(1)), []
        for l1, (rows, constant) in enumerate(zip(self.paths, self.couplings, strict=True)):
            coupled = (harmonics @ constant()).unflatten(1, (-1, 2 * l1 + 1))
            sent = features[l1].index_select(0, src)
            message = coupled * sent if l1 == 0 else coupled @ sent
            # Each path by itself, and not one product with weights repeated for all rows: in the last pass of training
            # such a concatenation would fill a tensor of zeros as large as all rows for every path.
            parts = message.split([2 * l3 + 1 for l3, _ in rows], 1)
            sums = [scatter_sum(part * next(of_paths).unsqueeze(1), dst, features[0].shape[0]) for part in parts]
            summed.append(torch.cat(sums, 1))
        return summed
