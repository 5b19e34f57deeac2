"""Edge vectors of a batch, and derivatives of the energy with respect to positions and strain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfm_pipeline.core.contracts.targets import ENERGY, Origin, Target
from gfm_pipeline.models.batch import Batch


@dataclass(frozen=True)
class Geometry:
    """The geometric input of models, and the variables of differentiation of energies.

    Attributes
    ----------
    vec
        Edge vectors [E, 3], Angstrom.
    pos
        Positions [N, 3] on which ``vec`` depends; None when no forces are requested.
    strain
        Strain of each structure [G, 3, 3], zero, on which ``vec`` depends; None when no stress is requested.
    """

    vec: Tensor
    pos: Tensor | None = None
    strain: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, *, moved: bool, strained: bool) -> Geometry:
        """Return the geometry of a batch, differentiable in positions if ``moved`` and in strain if ``strained``."""
        pos, strain = leaves(batch, moved=moved, strained=strained)
        return cls.at(batch, pos, strain, moved=moved)

    @classmethod
    def at(cls, batch: Batch, pos: Tensor, strain: Tensor | None, *, moved: bool) -> Geometry:
        """Return the geometry at the positions [N, 3] and strains [G, 3, 3] (if any) of `leaves`."""
        vec = pos.index_select(0, batch.edge_dst) - pos.index_select(0, batch.edge_src) + batch.edge_shift
        if strain is None:
            return cls(vec, pos if moved else None)
        # A strain e maps every vector v to v + v e: positions, image shifts and cells, and so whole edges
        symmetric = 0.5 * (strain + strain.transpose(1, 2))
        of_edge = symmetric.index_select(0, batch.graph.index_select(0, batch.edge_dst))
        return cls(vec + torch.bmm(vec.unsqueeze(1), of_edge).squeeze(1), pos if moved else None, strain)

    def derivatives(
        self,
        energy: Tensor,
        batch: Batch,
        *,
        create_graph: bool,
        retain_graph: bool | None = None,
        by_edge: list[Tensor] | None = None,
    ) -> dict[Origin, Tensor]:
        """Return the requested forces [N, 3] (eV/Angstrom) and stresses [G, 3, 3] (eV/Angstrom^3).

        Parameters
        ----------
        energy
            Sum of the energies of all structures, eV.
        batch
            Its cells determine the volumes; structures without three periodic directions have NaN.
        create_graph
            Keep the graph for a backward pass through the derivatives.
        retain_graph
            Keep the graph of the energy for further derivatives; None: as ``create_graph``.
        by_edge
            If given, the derivative with respect to ``vec`` [E, 3] (eV/Angstrom) is appended to it.
        """
        by = {Origin.GRADIENT: self.pos, Origin.STRAIN: self.strain}
        sources = {origin: tensor for origin, tensor in by.items() if tensor is not None}
        inputs = [*sources.values(), *([] if by_edge is None else [self.vec])]
        gradients = torch.autograd.grad(energy, inputs, retain_graph=retain_graph, create_graph=create_graph)
        slopes = dict(zip(sources, gradients, strict=False))
        if by_edge is not None:
            by_edge.append(gradients[-1])
        found = {}
        if Origin.GRADIENT in slopes:
            found[Origin.GRADIENT] = -slopes[Origin.GRADIENT]
        if Origin.STRAIN in slopes:
            found[Origin.STRAIN] = _per_volume(slopes[Origin.STRAIN], batch.cell)
        return found


def leaves(batch: Batch, *, moved: bool, strained: bool) -> tuple[Tensor, Tensor | None]:
    """Return positions [N, 3] and zero strains [G, 3, 3] (None unless ``strained``) that require gradients."""
    pos = batch.pos.detach().requires_grad_(moved)
    strain = pos.new_zeros(batch.natoms.shape[0], 3, 3).requires_grad_() if strained else None
    return pos, strain


def spreads(deviations: Tensor, geometry: Geometry, batch: Batch, derived: Sequence[Target]) -> dict[str, Tensor]:
    """Return the standard deviation over the K last layers, of energies and of the targets ``derived`` from them.

    Parameters
    ----------
    deviations
        Energies minus their mean [G, K], eV, with a graph to the geometry if there are derived targets.
    geometry, batch
        Those of the energies; the graph is kept.
    derived
        Targets that are derivatives of the energy.
    """
    freedom = deviations.shape[1] - 1
    found = {ENERGY.name: (deviations.detach().square().sum(1) / freedom).sqrt()}
    sums: dict[Origin, Tensor] = {}
    for energy in deviations.unbind(1) if derived else ():
        slopes = geometry.derivatives(energy.sum(), batch, create_graph=False, retain_graph=True)
        for origin, slope in slopes.items():
            sums[origin] = sums[origin] + slope.square() if origin in sums else slope.square()
    return found | {target.name: (sums[target.origin] / freedom).sqrt() for target in derived}


def _per_volume(slope: Tensor, cell: Tensor | None) -> Tensor:
    """Return ``slope`` [G, 3, 3] divided by the volume of each cell; NaN without a volume."""
    if cell is None:
        return torch.full_like(slope, torch.nan)
    a, b, c = cell.detach().unbind(1)
    volume: Tensor = (a * torch.linalg.cross(b, c)).sum(1).abs().view(-1, 1, 1)
    none = volume == 0  # a direction without periodicity has a zero vector
    stress: Tensor = (slope / volume.masked_fill(none, 1.0)).masked_fill(none, torch.nan)
    return stress
