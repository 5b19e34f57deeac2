"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gfm_pipeline.apps.train.flat_parameters import FlatPart
from gfm_pipeline.apps.train.optimisers.base import Moments, Optimiser
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings


class AdamW(Optimiser):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    The steps are those of ``torch.optim.AdamW``. Constructing that class imports torch's compiler, which takes
    longer than a short search rung trains.
    """

    def __init__(self, vector: nn.Parameter, parts: Sequence[FlatPart], settings: OptimiserSettings) -> None:
        super().__init__(vector, parts, settings)
        self._moments = Moments(self)

    def update(self, gradient: Tensor, rate: float) -> None:
        """See `Optimiser.update`."""
        mean, denominator, bias = self._moments.take(gradient)
        self.decay(rate)
        self.vector.addcdiv_(mean, denominator, value=-rate / bias)
