"""Inputs of models for whole structures: total charge, spin multiplicity and other graph attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.properties.attributes import Attribute
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import GEOMETRY_GAIN, linear, silu


class AttributeFiLM(nn.Module):
    """Feature-wise linear modulation of the scalars of atoms by attributes of their structure.

    Perez et al., "FiLM: Visual reasoning with a general conditioning layer", AAAI 2018. Networks without bias read the
    difference of an attribute from its neutral value, per atom if the attribute is extensive. So structures of neutral
    values stay unchanged, and two distant structures that share a charge evenly have the same energies together as
    alone. Each category but the neutral one has a number of its own. A separate number marks a structure that does not
    state an attribute.

    Parameters
    ----------
    hidden
        Width of the scalars.
    attributes
        The attributes.
    unstated
        Names of attributes whose absence differs from their neutral value; for those with a value that means unknown,
        it always does.
    scales
        By name, the unit of the differences from neutral values; 1 without an entry.
    """

    def __init__(
        self,
        hidden: int,
        attributes: Sequence[Attribute],
        unstated: tuple[str, ...] = (),
        scales: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.attributes = tuple(attributes)
        self.scales = dict(scales or {})
        self.flagged = frozenset(one.name for one in attributes if one.unknown is not None or one.name in unstated)
        width = sum(max(1, len(one.categories) - 1) for one in attributes) + len(self.flagged)
        self.inner = linear(width, hidden, bias=False, gain=GEOMETRY_GAIN)
        self.outer = linear(hidden, 2 * hidden, bias=False)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """Return scalars [N, H] modulated by the attributes of the structure, which a batch may lack."""
        natoms = batch.natoms.to(x.dtype)
        columns = [column for attribute in self.attributes for column in self._columns(attribute, batch, natoms)]
        hidden = silu(self.inner(torch.stack(columns, 1)))
        scale, shift = self.outer(hidden).index_select(0, batch.graph).chunk(2, 1)
        modulated: Tensor = x * (1.0 + scale) + shift
        return modulated

    def _columns(self, attribute: Attribute, batch: Batch, natoms: Tensor) -> Iterator[Tensor]:
        """Yield the numbers [G] that the networks read of an attribute."""
        given = batch.attributes.get(attribute.name)
        value = torch.full_like(natoms, torch.nan) if given is None else given.to(natoms.dtype)
        unknown = value.isnan()
        if attribute.unknown is not None:
            unknown = unknown | (value == attribute.unknown)
        if attribute.categories:
            others = (k for k in range(len(attribute.categories)) if k != attribute.neutral)
            yield from ((value == k).to(natoms.dtype) for k in others)  # false where not known
        else:
            off = (value - attribute.neutral).masked_fill(unknown, 0.0) / self.scales.get(attribute.name, 1.0)
            yield off / natoms if attribute.extensive else off
        if attribute.name in self.flagged:
            yield unknown.to(natoms.dtype)
