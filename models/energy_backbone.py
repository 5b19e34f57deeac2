"""A model of another package that predicts energies, as an algorithm."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.targets import ENERGY
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.readout import Features
from gfm_pipeline.models.registry import MessagePassing


class ScaledEnergy(nn.Module):
    """The head of a backbone's energies: a scale and a shift per atom, for each dataset; initially the identity.

    Parameters
    ----------
    units
        Unit of the readout of energies of each dataset, eV.
    """

    def __init__(self, units: Sequence[float]) -> None:
        super().__init__()
        self.scale = nn.Parameter(1.0 / torch.tensor(units))
        self.shift = nn.Parameter(torch.zeros(len(units)))

    def forward(self, features: Features, head: Tensor) -> Tensor:
        """Convert energies of atoms [N, 1] to units of the readout [N], for the dataset ``head`` [N] of each atom."""
        return features.scalars[:, 0] * self.scale.index_select(0, head) + self.shift.index_select(0, head)


class EnergyBackbone(MessagePassing):
    """A model that returns energies where other algorithms return features.

    A subclass builds the model in ``__init__`` and calls it in `energy`. Forces, stresses, the heads per dataset,
    training, search and calibration work as for other algorithms. Its description has
    ``force_heads=(ForceHead.CONSERVATIVE,)``. There are no features for heads of other targets, so such targets are
    refused.
    """

    @abstractmethod
    def energy(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor, batch: Tensor) -> Tensor:
        """Return energies in eV, of atoms [N] or of structures [G], twice differentiable by ``vec``.

        Parameters
        ----------
        z
            Atomic numbers [N].
        vec
            Edge vectors from ``src`` to ``dst`` [E, 3], Angstrom; E may be zero.
        src, dst
            Atom indices [E].
        batch
            Structure of each atom [N], ascending.
        """

    def features(self, batch: Batch, vec: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return energies of atoms as features [N, 1]; atoms share the energy of a structure equally.

        Raises
        ------
        ModelError
            When `energy` returns another number of energies.
        """
        energy = self.energy(batch.z, vec, batch.edge_src, batch.edge_dst, batch.graph)
        n_atoms, n_structures = batch.z.shape[0], batch.natoms.shape[0]
        if energy.shape == (n_atoms,):
            return energy.unsqueeze(1), None
        if energy.shape != (n_structures,):
            raise ModelError(
                f"{self.spec.algorithm} gave energies of shape {tuple(energy.shape)} for {n_atoms} atoms in "
                f"{n_structures} structures.",
                "Return one for each atom, or one for each structure.",
            )
        return (energy / batch.natoms.to(energy.dtype)).index_select(0, batch.graph).unsqueeze(1), None

    def energy_head(self) -> nn.Module:
        """Return the head for energies."""
        units = self.spec.dataset_units.get(ENERGY.name, (self.spec.force_rms,) * self.spec.n_datasets)
        return ScaledEnergy(units)

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the energies [N, 1] of one structure."""
        energy = self.energy(z, vec, src, dst, torch.zeros_like(z))
        return (energy if energy.shape == z.shape else (energy / z.shape[0]).expand(z.shape[0])).unsqueeze(1), None
