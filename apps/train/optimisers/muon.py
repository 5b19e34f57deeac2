"""Momentum made orthogonal for matrices, AdamW for all other parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gfm_pipeline.apps.train.flat_parameters import FlatPart
from gfm_pipeline.apps.train.optimisers.base import Moments, Optimiser
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings

ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients that bring singular values to about 1 in few iterations
RMS = 0.2  # RMS of a matrix step divided by the learning rate, about AdamW's (Liu et al., arXiv:2502.16982)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices [..., m, n] with the singular vectors of the given ones and singular values of about 1."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-30)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Optimiser):
    """Muon (Jordan et al., 2024) with steps as large as AdamW's, so that learning rates mean the same for both.

    Matrices between features step along the orthogonalised Nesterov momentum; embeddings, heads of datasets, biases and
    scales take AdamW's step.
    """

    def __init__(self, vector: nn.Parameter, parts: Sequence[FlatPart], settings: OptimiserSettings) -> None:
        super().__init__(vector, parts, settings)
        self._moments = Moments(self)
        self._alike: dict[tuple[int, ...], list[slice]] = defaultdict(list)  # of one shape: made orthogonal at once
        for part in parts:
            if part.matrix:
                self._alike[part.shape].append(part.place)

    def update(self, gradient: Tensor, rate: float) -> None:
        """See `Optimiser.update`."""
        mean, denominator, bias = self._moments.take(gradient)
        step = mean / denominator / bias
        ahead = torch.lerp(gradient, mean, self.settings.momentum)
        for shape, places in self._alike.items():
            matrices = torch.stack([ahead[place].view(shape) for place in places])
            found = orthogonal(matrices) * (RMS * math.sqrt(max(shape)))
            for place, matrix in zip(places, found, strict=True):
                step[place] = matrix.flatten()
        self.decay(rate)
        self.vector.add_(step, alpha=-rate)
