"""The interface of optimisers: steps on one flat vector of parameters, and a state for checkpoints."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.apps.train.flat_parameters import FlatPart
from gfm_pipeline.core.contracts.extensions import imported
from gfm_pipeline.core.contracts.optimisation.optimisers import OPTIMISERS
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.core.errors import ConfigError

EPSILON = 1e-8  # floor of Adam's denominator


class Optimiser(ABC):
    """Base of every optimiser.

    Parameters
    ----------
    vector
        The optimised vector; each step reads its ``grad``.
    parts
        Place of each parameter in ``vector``.
    settings
        Weight decay, momentum and so on.

    Attributes
    ----------
    tensors
        State by name, each of the size of ``vector``: written to checkpoints, and the same on all ranks.
    numbers
        State other than tensors, likewise.
    """

    def __init__(self, vector: nn.Parameter, parts: Sequence[FlatPart], settings: OptimiserSettings) -> None:
        self.vector, self.parts, self.settings = vector, tuple(parts), settings
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, float] = {"steps": 0}

    @abstractmethod
    def update(self, gradient: Tensor, rate: float) -> None:
        """Move ``vector`` by one step of learning rate ``rate``; ``numbers["steps"]`` already includes the step."""

    @property
    def averaged(self) -> Tensor | None:
        """The optimiser's own weights for validation and publication; None: use the moving average."""
        return None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Make one step with the learning rate ``rate``."""
        gradient = self.vector.grad
        if gradient is None:
            return
        self.numbers["steps"] += 1
        self.update(gradient, rate)

    def decay(self, rate: float) -> None:
        """Shrink the weights by the decoupled weight decay."""
        self.vector.mul_(1.0 - rate * self.settings.weight_decay)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the tensors in main memory, and the numbers."""
        copies = {name: tensor.to("cpu", copy=True) for name, tensor in self.tensors.items()}
        return self.numbers | copies

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises
        ------
        ValueError
            When the state belongs to another optimiser.
        RuntimeError
            When the state belongs to another model.
        """
        if state.keys() != self.tensors.keys() | self.numbers.keys():
            raise ValueError(f"its optimiser's state is not that of {self.settings.optimiser}")
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])
        self.numbers = {name: state[name] for name in self.numbers}


class Moments:
    """Adam's decaying means of the gradient and of its square, in the state of an optimiser.

    Parameters
    ----------
    optimiser
        The optimiser whose state holds them as ``mean`` and ``square``.
    """

    def __init__(self, optimiser: Optimiser) -> None:
        self.optimiser = optimiser
        data = optimiser.vector.data
        optimiser.tensors |= {"mean": torch.zeros_like(data), "square": torch.zeros_like(data)}

    def take(self, gradient: Tensor) -> tuple[Tensor, Tensor, float]:
        """Add a gradient; return the mean, the denominator, and the divisor that corrects the mean's bias."""
        settings, steps = self.optimiser.settings, self.optimiser.numbers["steps"]
        mean, square = self.optimiser.tensors["mean"], self.optimiser.tensors["square"]
        mean.lerp_(gradient, 1.0 - settings.momentum)
        square.mul_(settings.beta2).addcmul_(gradient, gradient, value=1.0 - settings.beta2)
        denominator = square.sqrt().div_(math.sqrt(1.0 - settings.beta2**steps)).add_(EPSILON)
        return mean, denominator, 1.0 - settings.momentum**steps


def build_optimiser(vector: nn.Parameter, parts: Sequence[FlatPart], settings: OptimiserSettings) -> Optimiser:
    """Return the optimiser that the settings name.

    Raises
    ------
    ConfigError
        When no optimiser has that name, or its class cannot be imported or is no `Optimiser`.
    """
    name = settings.optimiser
    where = OPTIMISERS.describe(name).module
    found = imported(f"Optimiser {name!r}", where)
    if not (isinstance(found, type) and issubclass(found, Optimiser)):
        raise ConfigError(f"Optimiser {name!r}: {where} is no Optimiser.", "Correct its description.")
    return found(vector, parts, settings)
