"""The training loss since the last validation, summed on the device: reading a number there would stop its queue."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningLoss:
    """Sums losses and norms of gradients; once one of them is not finite, the sums are not finite either.

    Parameters
    ----------
    device
        Device of the numbers.
    start
        Sum of the losses so far.
    """

    def __init__(self, device: torch.device, start: float = 0.0) -> None:
        self._sums = torch.tensor([start, 0.0], dtype=torch.float64, device=device)
        self._last = torch.zeros_like(self._sums)

    @torch.no_grad()
    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Add a step."""
        self._last = torch.stack([loss.double(), norm.double()])
        self._sums += self._last

    def read(self) -> tuple[float, float, float, float]:
        """Return the sums of losses and norms, and both of the last step; this waits for the device."""
        total, norms, loss, norm = torch.cat([self._sums, self._last]).tolist()
        return total, norms, loss, norm

    def reset(self) -> None:
        """Begin again."""
        self._sums.zero_()
