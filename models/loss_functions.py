"""The built-in losses: they map the errors of each row to one number.

`gfm_pipeline.core.contracts.optimisation.losses` declares them. Each takes errors [rows, components] in units of the
target's scale, the natural logarithm of the learned scale of errors [rows, 1] (None for losses without scale), and the
setting ``huber_delta``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def l2_norm(error: Tensor, log_scale: Tensor | None, huber_delta: float) -> Tensor:  # noqa: ARG001 - all take the same
    """Return the length of each error."""
    return error.squeeze(1).abs() if error.shape[1] == 1 else torch.linalg.vector_norm(error, dim=1)


def l1(error: Tensor, log_scale: Tensor | None, huber_delta: float) -> Tensor:  # noqa: ARG001
    """Return the mean absolute error of the components."""
    return error.abs().mean(1)


def mse(error: Tensor, log_scale: Tensor | None, huber_delta: float) -> Tensor:  # noqa: ARG001
    """Return the mean squared error of the components."""
    return error.square().mean(1)


def huber(error: Tensor, log_scale: Tensor | None, huber_delta: float) -> Tensor:  # noqa: ARG001
    """Return the mean of ``e^2/(2 delta)`` below ``huber_delta`` and of ``|e| - delta/2`` above."""
    return torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=huber_delta).mean(
        1
    )


def gaussian_nll(error: Tensor, log_scale: Tensor | None, huber_delta: float) -> Tensor:  # noqa: ARG001
    """Return the mean negative log-likelihood of a normal distribution, without the constant."""
    scale = _given(log_scale)
    return (0.5 * (error * torch.exp(-scale)).square() + scale).mean(1)


def gaussian_crps(error: Tensor, log_scale: Tensor | None, huber_delta: float) -> Tensor:  # noqa: ARG001
    """Return the mean continuous ranked probability score of a normal distribution."""
    scale = torch.exp(_given(log_scale))
    z = error / scale
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)
    return (scale * (z * torch.erf(z / math.sqrt(2.0)) + 2.0 * density - 1.0 / math.sqrt(math.pi))).mean(1)


def crps_gain(error: Tensor, deviations: Tensor) -> Tensor:
    """Return the continuous ranked probability score of K predictions less that of their mean [G].

    It is negative where their spread pays (Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), section 4.2).

    Parameters
    ----------
    error
        Mean minus label [G].
    deviations
        Predictions minus mean [G, K], in the same unit.
    """
    far = (error.unsqueeze(1) + deviations).abs().mean(1)
    apart = (deviations.unsqueeze(2) - deviations.unsqueeze(1)).abs().mean((1, 2))
    return far - 0.5 * apart - error.abs()


def _given(log_scale: Tensor | None) -> Tensor:
    if log_scale is None:
        raise ValueError("this loss needs the scale of errors")
    return log_scale
