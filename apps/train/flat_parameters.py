"""All parameters in one vector: one operation instead of one per tensor for clipping, AdamW and EMA."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gfm_pipeline.models.layers import MAX_Z

ALIGNMENT = 16  # floats, 64 bytes: gives kernels the same alignment, independent of preceding sizes


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
        The vector, which shares memory with the model's parameters, as does its gradient with theirs.
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


@dataclass(frozen=True)
class FlatPart:
    """The place of one parameter in the vector.

    Parameters
    ----------
    start, shape
        First number, and shape.
    matrix
        Whether it maps features to features: two axes, both longer than one, and no table of elements.
    """

    start: int
    shape: tuple[int, ...]
    matrix: bool

    @property
    def place(self) -> slice:
        """The slice of the parameter in the vector."""
        return slice(self.start, self.start + math.prod(self.shape))


def flat_parts(model: nn.Module) -> tuple[FlatPart, ...]:
    """Return the place of each parameter of ``model`` after `flatten`."""
    found, start = [], 0
    for p in model.parameters():
        matrix = p.ndim == 2 and min(p.shape) > 1 and len(p) != MAX_Z
        found.append(FlatPart(start, tuple(p.shape), matrix))
        start += -(-p.numel() // ALIGNMENT) * ALIGNMENT
    return tuple(found)


def with_tail(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return a flat gradient together with the numbers after it in memory, and these numbers alone.

    They carry other sums over ranks in the same message as the gradient.
    """
    size = gradient.numel() + ALIGNMENT
    whole = gradient.as_strided((size,), (1,), gradient.storage_offset())
    return whole, whole[gradient.numel() :]


def clip(gradient: Tensor, limit: float) -> Tensor:
    """Scale ``gradient`` in place to a norm of at most ``limit`` and return its previous norm, which may be pending."""
    norm: Tensor = torch.linalg.vector_norm(gradient)
    gradient.mul_((limit / norm.double()).clamp_max(1.0))  # limit / 0 is infinite, and clamped
    return norm


def ema_decay(decay: float, step: int, share: float = 1.0) -> float:
    """Return the weight of the old average at ``step`` (from 0).

    It is ``decay`` per thousandth of the steps so far. So the average covers the same share of a training of any
    length: a tenth with .99, all of it with .999. Initial random weights soon lose influence. Where the schedule has
    the learning rate at a ``share`` of its plateau, the average reaches back that much less: what it averages away is
    the noise of steps, and at a rate of zero the weights themselves are best.
    """
    back = (1.0 + step) * share
    return float(decay ** (1000.0 / back)) if back > 0.0 else 0.0


@torch.no_grad()
def update_ema(average: Tensor, value: Tensor, decay: float, step: int, share: float = 1.0) -> None:
    """Move ``average`` towards ``value`` in place."""
    average.lerp_(value, 1.0 - ema_decay(decay, step, share))
