"""The model users see: a batch of structures in, energies and forces out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import scatter_sum
from gfm_pipeline.models.readout import DirectForces, EdgeVectors, NodeEnergy
from gfm_pipeline.models.registry import build, describe
from gfm_pipeline.models.spec import ForceHead, ModelSpec

# Parts of the model under the names they had until 2026-11-30: checkpoints written before still load.
_FORMER_NAMES = {"trunk": "representation", "direct": "force_head", "edge_vectors": "vector_features"}


@dataclass(frozen=True)
class Prediction:
    """Values by name of a target, relative to their references: [G, ...] of structures, [N, ...] of atoms."""

    values: Mapping[str, Tensor]

    @property
    def energy(self) -> Tensor:
        """Energies relative to the references [G], eV."""
        return self.values["energy"]

    @property
    def forces(self) -> Tensor:
        """Forces [N, 3], eV/Angstrom."""
        return self.values["forces"]


class Potential(nn.Module):
    """Message passing, an energy head per dataset, and forces.

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
        self.register_load_state_dict_pre_hook(_rename_former_parts)  # type: ignore[no-untyped-call]
        self.representation = build(spec)
        self.node_energy = NodeEnergy(spec.hidden, spec.n_datasets)
        self.force_head: DirectForces | None = None
        self.vector_features: EdgeVectors | None = None
        if spec.force_head is ForceHead.DIRECT:
            self.force_head = DirectForces(spec.hidden, spec.n_datasets)
            if not describe(spec.algorithm).vectors:
                self.vector_features = EdgeVectors(spec)

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
            When a structure names a dataset the model has no head for.
        """
        if batch.dataset.numel() and int(batch.dataset.max()) >= self.spec.n_datasets:
            raise ModelError(
                f"The batch names dataset {int(batch.dataset.max())}, "
                f"the model has {self.spec.n_datasets} dataset heads."
            )
        conservative = self.force_head is None
        with torch.set_grad_enabled(training or conservative):
            pos = batch.pos.detach().requires_grad_(conservative)
            energy, forces = self._predict(batch, pos)
            if forces is None:
                (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=training)
                forces = -gradient
        values = {"energy": energy, "forces": forces}
        return Prediction(values if training else {name: value.detach() for name, value in values.items()})

    def _predict(self, batch: Batch, pos: Tensor) -> tuple[Tensor, Tensor | None]:
        src, dst = batch.edge_src, batch.edge_dst
        vec = pos.index_select(0, dst) - pos.index_select(0, src) + batch.edge_shift
        x, vectors = self.representation(batch.z, vec, src, dst)
        head = batch.dataset.index_select(0, batch.graph)
        scale = self.spec.force_rms
        energy = scatter_sum(self.node_energy(x, head), batch.graph, batch.natoms.shape[0]) * scale
        if self.force_head is None:
            return energy, None
        if self.vector_features is not None:
            vectors = self.vector_features(x, vec, src, dst)
        elif vectors is None:
            raise ModelError(
                f"{self.spec.algorithm} gave no vectors, though its description says that it has them.",
                "Correct the algorithm, or vectors=False in its description.",
            )
        forces: Tensor = self.force_head(x, vectors, head) * scale
        return energy, forces


def _rename_former_parts(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the entries of a state dict of an earlier version the names that parts have now."""
    for key in [key for key in state if key.startswith(prefix)]:
        part, dot, rest = key[len(prefix) :].partition(".")
        if part in _FORMER_NAMES and dot:
            state[f"{prefix}{_FORMER_NAMES[part]}.{rest}"] = state.pop(key)
