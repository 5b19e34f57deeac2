"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import Tensor


def ema_decay(decay: float, step: int) -> float:
    """Return the decay at ``step`` (from 0): short memory at first, so that random weights are soon forgotten."""
    return min(decay, (1.0 + step) / (10.0 + step))


@torch.no_grad()
def update_ema(average: Tensor, value: Tensor, decay: float, step: int) -> None:
    """Move ``average`` towards ``value`` in place."""
    average.lerp_(value, 1.0 - ema_decay(decay, step))
