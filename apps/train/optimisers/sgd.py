"""Gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gfm_pipeline.apps.train.flat_parameters import FlatPart
from gfm_pipeline.apps.train.optimisers.base import Optimiser
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings


class SGD(Optimiser):
    """Gradient descent with momentum (Sutskever et al., ICML 2013) and decoupled weight decay.

    The steps are those of ``torch.optim.SGD``, but for the decay.
    """

    def __init__(self, vector: nn.Parameter, parts: Sequence[FlatPart], settings: OptimiserSettings) -> None:
        super().__init__(vector, parts, settings)
        self.tensors["velocity"] = torch.zeros_like(vector.data)

    def update(self, gradient: Tensor, rate: float) -> None:
        """See `Optimiser.update`."""
        velocity = self.tensors["velocity"]
        velocity.mul_(self.settings.momentum).add_(gradient)
        self.decay(rate)
        self.vector.add_(velocity, alpha=-rate)
