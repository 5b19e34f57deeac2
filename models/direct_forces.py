"""Forces from a head beside a model of the energy, for a first part of its training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.targets import FORCES
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.constraints import balanced
from gfm_pipeline.models.potential import Potential, Prediction
from gfm_pipeline.models.readout import EdgeVectors, Features, VectorHead


class DirectForces(nn.Module):
    """A head of forces on the features of a model whose forces are the gradient of its energy.

    A training step with it has no second derivatives, and costs about half. Vectors are weighted sums of the directions
    of edges, also for algorithms with vectors of their own, whose last layer does not compute them without a head.

    Parameters
    ----------
    model
        The model; it is no part of this module.
    """

    units: Tensor

    def __init__(self, model: Potential) -> None:
        super().__init__()
        spec = model.spec
        self.vectors = EdgeVectors(spec)
        self.head = VectorHead(spec.hidden, spec.n_datasets)
        units = spec.dataset_units.get(FORCES.name, (spec.scale(FORCES),) * spec.n_datasets)
        self.register_buffer("units", torch.tensor(units), persistent=False)

    def forward(self, model: Potential, batch: Batch) -> Prediction:
        """Return the values of the heads of ``model`` and forces, with the graph for a backward pass."""
        x, vec, values = model.features_and_heads(batch)
        head = batch.dataset.index_select(0, batch.graph)
        vectors = self.vectors(x, vec, batch.edge_src, batch.edge_dst)
        forces = self.head(Features(x, vectors), head).to(batch.pos.dtype)
        forces = forces * self.units.index_select(0, head).unsqueeze(1)
        return Prediction(values | {FORCES.name: balanced(forces, batch)})
