"""All parameters in one vector: one operation instead of one a tensor for clipping, AdamW and EMA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ALIGNMENT = 16  # floats, 64 bytes: kernels see the same alignment whatever the sizes before


def flatten(model: nn.Module, *, gradients: bool) -> nn.Parameter:
    """Move the parameters of ``model`` into one vector and leave views of it in their place.

    Parameters
    ----------
    model
        Its parameters must have one dtype.
    gradients
        Also give every parameter a gradient that is a view of the vector's gradient, which starts at zero.

    Returns
    -------
    nn.Parameter
        The vector; what is written to it, or to its gradient, is seen by the model and the other way round.
    """
    parameters = list(model.parameters())
    offsets = [0]
    for p in parameters:
        offsets.append(offsets[-1] + -(-p.numel() // ALIGNMENT) * ALIGNMENT)
    vector = nn.Parameter(torch.zeros(offsets[-1], dtype=parameters[0].dtype), requires_grad=gradients)
    if gradients:
        vector.grad = torch.zeros_like(vector)
    for p, start in zip(parameters, offsets, strict=False):
        view = vector.data[start : start + p.numel()].view_as(p)
        view.copy_(p.data)
        p.data = view
        if gradients:
            grad = vector.grad
            p.grad = None if grad is None else grad[start : start + p.numel()].view_as(p)
    return vector


def clip(gradient: Tensor, limit: float) -> float:
    """Scale ``gradient`` in place to a norm of at most ``limit`` and return the norm it had."""
    norm = float(torch.linalg.vector_norm(gradient))
    if norm > limit:
        gradient.mul_(limit / norm)
    return norm
