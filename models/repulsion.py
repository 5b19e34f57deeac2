"""Screened nuclear repulsion at short distances, which data do not cover."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_pipeline.models.layers import MAX_Z, scatter_sum
from gfm_pipeline.models.radial import envelope

COULOMB = 14.399645478  # e^2 / (4 pi epsilon_0), eV Angstrom
_SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
_LENGTH, _POWER = 0.46850, 0.23  # Angstrom
_FLAT, _FREE = 0.5, 0.75  # of the sum of radii: edges below the first have one length, edges beyond the second theirs


class Repulsion(nn.Module):
    """The universal potential of Ziegler, Biersack and Littmark (1985), faded out at the sum of covalent radii.

    A network may have any slope where it has no data. So the network sees edges shorter than 0.5 times the sum of the
    radii at one constant length (`shown`). It then exerts no force along them, and two atoms pushed together always
    repel each other. From 0.75 times the sum, lengths are unchanged; value, slope and curvature vary smoothly in
    between. The repulsion is part of the energy in training too, so the network learns the rest.

    Parameters
    ----------
    cutoff
        Cutoff of the model, Angstrom; the repulsion ends there or before.
    """

    radii: Tensor

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        from ase.data import covalent_radii  # only models with repulsion need ASE

        radii = torch.tensor(covalent_radii[1 : MAX_Z + 1], dtype=torch.get_default_dtype())
        self.register_buffer("radii", radii.clamp(min=0.3, max=cutoff / 2), persistent=False)

    def _reach(self, z: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        radius = self.radii.index_select(0, z - 1)
        return radius.index_select(0, src) + radius.index_select(0, dst)

    def shown(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return the edge vectors [E, 3] that the network sees."""
        distance = (vec * vec).sum(1).sqrt()
        reach = self._reach(z, src, dst)
        start, width = _FLAT * reach, (_FREE - _FLAT) * reach
        t = ((distance - start) / width).clamp(0.0, 1.0)
        # the integral of 3 t^2 - 2 t^3, whose slope rises from 0 to 1 without a kink
        length = start + width * (0.5 + t.pow(3) * (1.0 - 0.5 * t)) + (distance - start - width).clamp(min=0.0)
        return vec * (length / distance).unsqueeze(1)

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> Tensor:
        """Return energies of atoms [N], eV, from atomic numbers [N] and edge vectors [E, 3]."""
        distance = (vec * vec).sum(1).sqrt()
        charge = z.to(vec.dtype)
        size = charge.pow(_POWER)
        scaled = distance * (size.index_select(0, src) + size.index_select(0, dst)) / _LENGTH
        screening = sum((share * torch.exp(-rate * scaled) for share, rate in _SCREENING), torch.zeros_like(scaled))
        strength = 0.5 * COULOMB * charge.index_select(0, src) * charge.index_select(0, dst)
        fade = envelope(distance / self._reach(z, src, dst), 1.0)
        return scatter_sum(strength / distance * screening * fade, dst, z.shape[0])
