"""AdamW without a schedule: validation uses an average of the path."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gfm_pipeline.apps.train.flat_parameters import FlatPart
from gfm_pipeline.apps.train.optimisers.base import EPSILON, Optimiser
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings


class ScheduleFreeAdamW(Optimiser):
    """Schedule-free AdamW (Defazio et al., NeurIPS 2024).

    Gradients are taken at ``vector``, between the fast weights that step and their average, which is validated and
    published in place of the moving average of other optimisers. Steps count by the square of the largest rate so far.
    """

    def __init__(self, vector: nn.Parameter, parts: Sequence[FlatPart], settings: OptimiserSettings) -> None:
        super().__init__(vector, parts, settings)
        start = vector.data
        self.tensors |= {"fast": start.clone(), "average": start.clone(), "square": start.new_zeros(start.shape)}
        self.numbers |= {"largest_rate": 0.0, "weight_sum": 0.0}

    @property
    def averaged(self) -> Tensor:
        """See `Optimiser.averaged`."""
        return self.tensors["average"]

    def update(self, gradient: Tensor, rate: float) -> None:
        """See `Optimiser.update`."""
        settings, numbers = self.settings, self.numbers
        fast, average, square = (self.tensors[name] for name in ("fast", "average", "square"))
        square.mul_(settings.beta2).addcmul_(gradient, gradient, value=1.0 - settings.beta2)
        bias = (1.0 - settings.beta2 ** numbers["steps"]) ** 0.5
        fast.addcdiv_(gradient, square.sqrt().div_(bias).add_(EPSILON), value=-rate)
        fast.add_(self.vector, alpha=-rate * settings.weight_decay)
        numbers["largest_rate"] = max(rate, numbers["largest_rate"])
        weight = numbers["largest_rate"] ** 2
        numbers["weight_sum"] += weight
        share = weight / numbers["weight_sum"] if numbers["weight_sum"] > 0 else 1.0
        average.lerp_(fast, share)
        self.vector.copy_(fast).lerp_(average, settings.momentum)
