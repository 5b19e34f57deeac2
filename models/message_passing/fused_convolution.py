"""The products of a tensor convolution by kernels of cuequivariance, which sum over neighbours as they multiply.

The coefficients are ours, so results equal those of `gfm_pipeline.models.equivariant` up to rounding. Parameters are
the same. The kernels need a GPU of NVIDIA; elsewhere the package has a slow reference implementation, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KERNEL, REFERENCE = "uniform_1d", "naive"  # cuequivariance's names of its implementations
SMALLEST = 1e-12  # coefficient that is not zero
Paths = tuple[tuple[int, ...], ...]  # for each order of neighbours, the resulting order of each path


def method_for(device: torch.device) -> str | None:
    """Return cuequivariance's implementation for a device, or None where PyTorch has to compute."""
    if device.type != "cuda" or find_spec("cuequivariance_torch") is None:
        return None
    return KERNEL if find_spec("cuequivariance_ops_torch") is not None else None


def convolve(
    paths: Paths,
    couplings: Sequence[Tensor],
    operands: tuple[Tensor, Sequence[Tensor], Tensor],
    ends: tuple[Tensor, Tensor],
    method: str,
) -> list[Tensor]:
    """Return the sums over neighbours [N, rows, C] for each order of neighbours.

    Parameters
    ----------
    paths
        Orders that result from each order of neighbours.
    couplings
        For each order l1 of neighbours, coefficients [harmonics, rows * (2 l1 + 1)].
    operands
        Weights of paths [E, paths, C], features [N, 2 l + 1, C] of each order l, and harmonics [E, harmonics].
    ends
        Atoms [E] that send and receive.
    method
        See `method_for`.
    """
    weights, features, harmonics = operands
    n, _, channels = features[0].shape
    blocks = tuple(constant.detach().double().cpu().numpy().tobytes() for constant in couplings)
    polynomial = _polynomial(paths, blocks, harmonics.shape[1], channels, method)
    dtype = harmonics.dtype
    rows = [sum(2 * l3 + 1 for l3 in found) for found in paths]
    shape = torch.empty(n, 1, dtype=dtype, device=harmonics.device)
    (summed,) = polynomial.to(harmonics.device)(
        [weights.flatten(1).to(dtype), torch.cat([x.flatten(1) for x in features], 1).to(dtype), harmonics],
        input_indices={1: ends[0]},
        output_indices={0: ends[1]},
        output_shapes={0: shape},
    )
    return list(summed.unflatten(1, (-1, channels)).split(rows, 1))


@lru_cache(maxsize=64)
def _polynomial(paths: Paths, blocks: tuple[bytes, ...], harmonics: int, channels: int, method: str) -> Any:
    """Return the module that multiplies and sums; it has no parameters, so all models share it."""
    import cuequivariance as cue
    import cuequivariance_torch

    product = cue.SegmentedTensorProduct.from_subscripts("u,u,,u")  # weights, features, harmonics, sums
    weights, features, factors, sums = range(4)
    for found in paths:
        for l3 in found:
            product.add_segment(weights, (channels,))
            for _ in range(2 * l3 + 1):
                product.add_segment(sums, (channels,))
    for _ in range(len(paths) ** 2):
        product.add_segment(features, (channels,))
    for _ in range(harmonics):
        product.add_segment(factors, ())
    path = row = 0
    for l1, (found, block) in enumerate(zip(paths, blocks, strict=True)):
        coefficients: NDArray[np.float64] = np.frombuffer(block).reshape(harmonics, -1, 2 * l1 + 1)
        owner = np.repeat(np.arange(len(found)), [2 * l3 + 1 for l3 in found])
        for y, out, x in np.argwhere(np.abs(coefficients) > SMALLEST).tolist():
            c = float(coefficients[y, out, x])
            product.add_path(path + int(owner[out]), l1 * l1 + x, y, row + out, c=c)
        path, row = path + len(found), row + len(owner)
    return cuequivariance_torch.SegmentedPolynomial(cue.SegmentedPolynomial.eval_last_operand(product), method=method)
