"""The first part of a training, in which a head beside the model gives the forces."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.core.contracts.targets import FORCES
from gfm_pipeline.models import Batch, Potential, Prediction
from gfm_pipeline.models.constraints import balanced
from gfm_pipeline.models.readout import EdgeVectors, Features, VectorHead

PREFIXES = ("direct.", "direct_average.")  # of the tensors of the heads among those of the loss in a checkpoint


class DirectForces(nn.Module):
    """A head of forces on the features of a model whose forces are the gradient of its energy.

    A training step with it has no second derivatives, and costs less. Vectors are weighted sums of the directions
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


def direct_phase(model: Potential, average: Potential, settings: OptimiserSettings) -> DirectPhase | None:
    """Return the heads of forces of a training with ``direct_share``; None if it has none or cannot have one."""
    if not settings.direct_share or model.spec.has_head(FORCES) or FORCES not in model.spec.targets:
        return None
    if model.representation.energy_head() is not None or model.derived_targets() != (FORCES,):
        warnings.warn(
            "direct_share is not used: it needs an algorithm with features, and forces as the only target that is a "
            "derivative of the energy.",
            stacklevel=2,
        )
        return None
    return DirectPhase(model, average)


def first_end(settings: OptimiserSettings, horizon: int | None, graphs: int) -> int:
    """Return the number of graphs at the end of the part with direct forces, for a training at ``graphs``.

    0: there is none. A model that has been trained without such a part does not begin one.
    """
    return 0 if graphs else int(settings.direct_share * (horizon or 0))


class DirectPotential(nn.Module):
    """The model with forces from the head, as validations see it."""

    def __init__(self, model: Potential, head: DirectForces) -> None:
        super().__init__()
        self.model, self.head, self.spec = model, head, model.spec

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return self.model.dtype

    @torch.no_grad()
    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        found: Prediction = self.head(self.model, batch)
        return found


class DirectPhase:
    """The head of a model and that of its average, which are trained and averaged with their parameters.

    Parameters
    ----------
    model, average
        The trained model, and its moving average.
    """

    def __init__(self, model: Potential, average: Potential) -> None:
        self.model = model
        self.head, self.average_head = (DirectForces(model).to(model.dtype) for _ in range(2))
        device = next(model.parameters()).device
        self.head, self.average_head = self.head.to(device), self.average_head.to(device)
        self.average_head.load_state_dict(self.head.state_dict())
        self.validated = DirectPotential(average, self.average_head)

    def predict(self, batch: Batch) -> Prediction:
        """Predict a batch, with the graph for a backward pass."""
        found: Prediction = self.head(self.model, batch)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of both heads, for a checkpoint."""
        heads = zip(PREFIXES, (self.head, self.average_head), strict=True)
        return {name: tensor for prefix, head in heads for name, tensor in head.state_dict(prefix=prefix).items()}

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take over the tensors of `tensors` if they are there, and return all others."""
        for prefix, head in zip(PREFIXES, (self.head, self.average_head), strict=True):
            mine = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
            if mine:
                head.load_state_dict(mine)
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIXES)}
