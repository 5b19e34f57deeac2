"""Inputs of models for whole structures: total charge and spin multiplicity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.targets import CHARGE, SPIN
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import GEOMETRY_GAIN, linear

NEUTRAL = {CHARGE: 0.0, SPIN: 1.0}  # values that leave the scalars unchanged


class AttributeFiLM(nn.Module):
    """Feature-wise linear modulation of the scalars of atoms by attributes of their structure.

    Perez et al., "FiLM: Visual reasoning with a general conditioning layer", AAAI 2018. Networks without bias read the
    charge and the number of unpaired electrons per atom. So neutral singlets stay unchanged, and two distant structures
    that share a charge evenly have the same energies together as alone. A separate number marks a structure that does
    not state an attribute.

    Parameters
    ----------
    hidden
        Width of the scalars.
    attributes
        The attributes, among `gfm_pipeline.core.contracts.targets.ATTRIBUTES`.
    unstated
        Attributes whose absence differs from their neutral value; for a multiplicity it always does.
    """

    def __init__(self, hidden: int, attributes: tuple[str, ...], unstated: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.attributes = attributes
        self.flagged = tuple(name for name in attributes if name == SPIN or name in unstated)
        self.inner = linear(len(attributes) + len(self.flagged), hidden, bias=False, gain=GEOMETRY_GAIN)
        self.outer = linear(hidden, 2 * hidden, bias=False)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """Return scalars [N, H] modulated by the attributes of the structure, which a batch may lack."""
        natoms = batch.natoms.to(x.dtype)
        columns: list[Tensor] = []
        for name in self.attributes:
            given = batch.attributes.get(name)
            value = torch.full_like(natoms, torch.nan) if given is None else given.to(x.dtype)
            unknown = value.isnan() | (value == 0) if name == SPIN else value.isnan()
            columns.append((value - NEUTRAL[name]).masked_fill(unknown, 0.0) / natoms)
            if name in self.flagged:
                columns.append(unknown.to(x.dtype))
        hidden = nn.functional.silu(self.inner(torch.stack(columns, 1)))
        scale, shift = self.outer(hidden).index_select(0, batch.graph).chunk(2, 1)
        modulated: Tensor = x * (1.0 + scale) + shift
        return modulated
