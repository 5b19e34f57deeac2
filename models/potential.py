"""The model users see: a batch of structures in, energies and forces out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import scatter_sum
from gfm_pipeline.models.readout import DirectForces, EdgeVectors, NodeEnergy
from gfm_pipeline.models.registry import build, describe
from gfm_pipeline.models.spec import ForceHead, ModelSpec


@dataclass(frozen=True)
class Prediction:
    """Energy relative to the references [G] in eV, and forces [N, 3] in eV/Angstrom."""

    energy: Tensor
    forces: Tensor


class Potential(nn.Module):
    """Message passing, an energy branch a dataset, and forces.

    Parameters
    ----------
    spec
        What to build; kept as ``self.spec``.

    Raises
    ------
    ModelError
        For an unknown algorithm or option.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = build(spec)
        self.node_energy = NodeEnergy(spec.hidden, spec.n_datasets)
        self.direct: DirectForces | None = None
        self.edge_vectors: EdgeVectors | None = None
        if spec.force_head is ForceHead.DIRECT:
            self.direct = DirectForces(spec.hidden, spec.n_datasets)
            if not describe(spec.algorithm).vectors:
                self.edge_vectors = EdgeVectors(spec)

    def forward(self, batch: Batch, training: bool = False) -> Prediction:
        """Predict a batch.

        Parameters
        ----------
        batch
            Structures in the dtype of the model; labels are not read.
        training
            Keep the graph for a backward pass through energies and forces. Otherwise the result is detached.

        Raises
        ------
        ModelError
            When a structure names a dataset the model has no branch for.
        """
        if batch.dataset.numel() and int(batch.dataset.max()) >= self.spec.n_datasets:
            raise ModelError(
                f"The batch names dataset {int(batch.dataset.max())}, the model has {self.spec.n_datasets} branches."
            )
        conservative = self.direct is None
        with torch.set_grad_enabled(training or conservative):
            pos = batch.pos.detach().requires_grad_(conservative)
            energy, forces = self._predict(batch, pos)
            if forces is None:
                (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=training)
                forces = -gradient
        return Prediction(energy, forces) if training else Prediction(energy.detach(), forces.detach())

    def _predict(self, batch: Batch, pos: Tensor) -> tuple[Tensor, Tensor | None]:
        src, dst = batch.edge_src, batch.edge_dst
        vec = pos.index_select(0, dst) - pos.index_select(0, src) + batch.edge_shift
        x, vectors = self.trunk(batch.z, vec, src, dst)
        branch = batch.dataset.index_select(0, batch.graph)
        scale = self.spec.force_rms
        energy = scatter_sum(self.node_energy(x, branch), batch.graph, batch.natoms.shape[0]) * scale
        if self.direct is None:
            return energy, None
        if self.edge_vectors is not None:
            vectors = self.edge_vectors(x, vec, src, dst)
        elif vectors is None:
            raise ModelError(
                f"{self.spec.algorithm} gave no vectors, though its description says that it has them.",
                "Correct the algorithm, or vectors=False in its description.",
            )
        forces: Tensor = self.direct(x, vectors, branch) * scale
        return energy, forces
