"""All parameters in one vector: one operation instead of one a tensor for clipping, AdamW and EMA."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 16  # floats, 64 bytes: kernels see the same alignment whatever the sizes before


def flatten(model: nn.Module, *, gradients: bool) -> nn.Parameter:
    """Move the parameters of ``model`` into one vector and leave views of it in their place.

    Parameters
    ----------
    model
        Its parameters must have one dtype and device.
    gradients
        Also give every parameter a gradient that is a view of the vector's gradient, which starts at zero.
        In memory, `ALIGNMENT` more numbers follow it (see `with_tail`).

    Returns
    -------
    nn.Parameter
        The vector; what is written to it, or to its gradient, is seen by the model and the other way round.
    """
    parameters = list(model.parameters())
    offsets = [0]
    for p in parameters:
        offsets.append(offsets[-1] + -(-p.numel() // ALIGNMENT) * ALIGNMENT)
    first = parameters[0]
    vector = nn.Parameter(torch.zeros(offsets[-1], dtype=first.dtype, device=first.device), requires_grad=gradients)
    if gradients:
        vector.grad = torch.zeros(offsets[-1] + ALIGNMENT, dtype=first.dtype, device=first.device)[: offsets[-1]]
    for p, start in zip(parameters, offsets, strict=False):
        view = vector.data[start : start + p.numel()].view_as(p)
        view.copy_(p.data)
        p.data = view
        if gradients:
            grad = vector.grad
            p.grad = None if grad is None else grad[start : start + p.numel()].view_as(p)
    return vector


def with_tail(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return a flat gradient with the numbers that follow it in memory, and those alone.

    What is summed over ranks besides the gradient goes along in the same message.
    """
    size = gradient.numel() + ALIGNMENT
    whole = gradient.as_strided((size,), (1,), gradient.storage_offset())
    return whole, whole[gradient.numel() :]


def clip(gradient: Tensor, limit: float) -> float:
    """Scale ``gradient`` in place to a norm of at most ``limit`` and return the norm it had."""
    norm = float(torch.linalg.vector_norm(gradient))
    if norm > limit:
        gradient.mul_(limit / norm)
    return norm


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019) on one vector.

    The steps are those of ``torch.optim.AdamW``. Constructing that class imports torch's compiler, which takes
    longer than a short search rung trains.

    Parameters
    ----------
    vector
        What to optimise; its ``grad`` is read at every step.
    weight_decay
        Decoupled decay, as a share of the learning rate.
    betas, epsilon
        Decay of both moments; floor of the denominator.
    """

    def __init__(
        self,
        vector: nn.Parameter,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.vector, self.weight_decay, self.betas, self.epsilon = vector, weight_decay, betas, epsilon
        self.steps = 0
        self.mean, self.square = torch.zeros_like(vector.data), torch.zeros_like(vector.data)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Make one step with the learning rate ``rate``."""
        gradient = self.vector.grad
        if gradient is None:
            return
        self.steps += 1
        first, second = self.betas
        self.mean.lerp_(gradient, 1.0 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        scale = math.sqrt(1.0 - second**self.steps)
        denominator = self.square.sqrt().div_(scale).add_(self.epsilon)
        self.vector.mul_(1.0 - rate * self.weight_decay)
        self.vector.addcdiv_(self.mean, denominator, value=-rate / (1.0 - first**self.steps))

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the moments in main memory, and the number of steps."""
        mean, square = (tensor.to("cpu", copy=True) for tensor in (self.mean, self.square))
        return {"steps": self.steps, "mean": mean, "square": square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; raises KeyError or RuntimeError when it does not fit."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps = int(state["steps"])


def ema_decay(decay: float, step: int) -> float:
    """Return the decay at ``step`` (from 0): short memory at first, so that random weights are soon forgotten."""
    return min(decay, (1.0 + step) / (10.0 + step))


@torch.no_grad()
def update_ema(average: Tensor, value: Tensor, decay: float, step: int) -> None:
    """Move ``average`` towards ``value`` in place."""
    average.lerp_(value, 1.0 - ema_decay(decay, step))
