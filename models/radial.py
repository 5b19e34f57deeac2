"""Radial basis and the smooth envelope that lets a neighbour fade out before the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ENVELOPE_POWER = 5


def envelope(distance: Tensor, cutoff: float, power: int = ENVELOPE_POWER) -> Tensor:
    """Return the polynomial envelope of DimeNet: 1 at zero; value, slope and curvature 0 at the cutoff.

    Gasteiger, Gross, Guennemann, "Directional Message Passing for Molecular Graphs", ICLR 2020, eq. 8.

    Parameters
    ----------
    distance
        Any shape, Angstrom; beyond ``cutoff`` the result is exactly zero.
    cutoff
        Angstrom.
    power
        The paper's p (at least 2): larger is flatter inside and steeper at the cutoff.
    """
    x = (distance / cutoff).clamp(max=1.0)
    a, b, c = (power + 1) * (power + 2) / 2, power * (power + 2), power * (power + 1) / 2
    return 1.0 + x.pow(power) * (x * (b - c * x) - a)


class RadialBasis(nn.Module):
    """Spherical Bessel basis of order zero times the envelope (DimeNet, eq. 7).

    Parameters
    ----------
    n_radial
        Number of functions R.
    cutoff
        Angstrom.
    """

    frequency: Tensor

    def __init__(self, n_radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        frequency = torch.arange(1, n_radial + 1, dtype=torch.get_default_dtype()) * (math.pi / cutoff)
        self.register_buffer("frequency", frequency, persistent=False)

    def forward(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the basis times the envelope [E, R] and the envelope itself [E, 1].

        Parameters
        ----------
        distance
            Edge lengths [E, 1], Angstrom, positive.
        """
        cutoff_value = envelope(distance, self.cutoff)
        # sqrt(2/rc) sin(n pi d / rc) / d has unit norm on the ball; times sqrt(rc) it is of order one near a bond
        return torch.sin(distance * self.frequency) * (cutoff_value * (math.sqrt(2.0) / distance)), cutoff_value
