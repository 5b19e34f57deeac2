"""Inputs of models for whole structures: total charge and spin multiplicity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.targets import CHARGE, SPIN
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import GEOMETRY_GAIN, linear


class AttributeFiLM(nn.Module):
    """Feature-wise linear modulation of the scalars of atoms by attributes of their structure.

    Perez et al., "FiLM: Visual reasoning with a general conditioning layer", AAAI 2018. Networks without bias read the
    charge and the number of unpaired electrons per atom, so that neutral singlets are left as they are, and two far
    structures that share a charge evenly have the energies they have alone.

    Parameters
    ----------
    hidden
        Width of the scalars.
    attributes
        Which ones, among `gfm_pipeline.core.contracts.targets.ATTRIBUTES`.
    """

    def __init__(self, hidden: int, attributes: tuple[str, ...]) -> None:
        super().__init__()
        self.attributes = attributes
        width = sum({CHARGE: 1, SPIN: 2}[name] for name in attributes)
        self.inner = linear(width, hidden, bias=False, gain=GEOMETRY_GAIN)
        self.outer = linear(hidden, 2 * hidden, bias=False)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """Return scalars [N, H] that know the attributes of the structure; a batch that has none knows nothing."""
        natoms = batch.natoms.to(x.dtype)
        columns: list[Tensor] = []
        for name in self.attributes:
            given = batch.attributes.get(name)
            value = torch.zeros_like(natoms) if given is None else given.to(x.dtype)
            if name == SPIN:
                unknown = (value == 0).to(x.dtype)
                columns += [(value - 1.0 + unknown) / natoms, unknown]
            else:
                columns.append(value / natoms)
        hidden = nn.functional.silu(self.inner(torch.stack(columns, 1)))
        scale, shift = self.outer(hidden).index_select(0, batch.graph).chunk(2, 1)
        modulated: Tensor = x * (1.0 + scale) + shift
        return modulated
