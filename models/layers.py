"""Small building blocks of all algorithms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import functional

MAX_Z = 118
# Gain where species and distances enter one nonlinearity; without it the few, small distances have almost no effect
GEOMETRY_GAIN = 4.0


def linear(n_in: int, n_out: int, *, bias: bool = True, gain: float = 1.0) -> nn.Linear:
    """Return a linear layer with Xavier-uniform weights times ``gain`` and zero bias."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Return linear, SiLU, linear."""
    return nn.Sequential(linear(n_in, n_hidden), SiLU(), linear(n_hidden, n_out))


def scatter_sum(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum rows of ``values`` [E, ...] that share an ``index`` [E]; rows without an index are zero [n, ...]."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, index, values)


def lengths_and_directions(vec: Tensor) -> tuple[Tensor, Tensor]:
    """Return edge lengths [E, 1] and unit vectors [E, 3] of edge vectors [E, 3]."""
    distance = (vec * vec).sum(-1, keepdim=True).sqrt()
    return distance, vec / distance


class Embedding(nn.Module):
    """One learned vector per chemical element (Z from 1 to 118)."""

    def __init__(self, hidden: int, deviation: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(deviation * torch.randn(MAX_Z, hidden))

    def forward(self, z: Tensor) -> Tensor:
        """Return features [N, H] of atomic numbers [N]."""
        return self.weight.index_select(0, z - 1)


class _Silu(Function):
    """x sigmoid(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.silu(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _slope(grad, x)


class _SiluSlope(Function):
    """The derivative of SiLU at x, times ``grad``."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(grad, x)
        return torch.ops.aten.silu_backward(grad, x)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, other: Tensor) -> tuple[Tensor | None, Tensor | None]:
        grad, x = ctx.saved_tensors
        for_grad, for_x = ctx.needs_input_grad
        return _slope(other, x) if for_grad else None, _curvature(other, grad, x) if for_x else None


def _slope(grad: Tensor, x: Tensor) -> Tensor:
    found: Tensor = _SiluSlope.apply(grad, x)  # type: ignore[no-untyped-call]
    return found


def _curvature(other: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """Return the second derivative at x, s (1 - s) (2 + x (1 - 2 s)) with s = sigmoid(x), times both factors."""
    s = torch.sigmoid(x)
    if torch.is_grad_enabled():  # a third derivative is asked for
        return other * grad * (s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s)))
    found = (s * -2.0).add_(1.0).mul_(x).add_(2.0).mul_(grad).mul_(other)
    return torch.ops.aten.sigmoid_backward(found, s)  # type: ignore[no-any-return]


def silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x), any shape, with cheap higher derivatives.

    Training with forces differentiates the energy twice. PyTorch composes the first derivative of its SiLU of six
    operators where it has to be differentiated again, and so the second of some twenty, each with a pass over all
    edges. Here the first derivative is one operator, and the second is computed in place, since nothing in training
    differentiates it. Compilers, which fuse operators by themselves, see PyTorch's own.
    """
    if _traced() or not x.requires_grad:
        return functional.silu(x)
    found: Tensor = _Silu.apply(x)  # type: ignore[no-untyped-call]
    return found


class SiLU(nn.Module):
    """`silu` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x sigmoid(x), any shape."""
        return silu(x)


class _Outer(Function):
    """Products of rows [E, L] and [E, C]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(rows, columns)
        return rows.unsqueeze(2) * columns.unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, columns = ctx.saved_tensors
        for_rows, for_columns = ctx.needs_input_grad
        return _over_columns(grad, columns) if for_rows else None, contracted(rows, grad) if for_columns else None


class _Contracted(Function):
    """Sums over L of products of [E, L] and [E, L, C]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(rows, values)
        return (rows.unsqueeze(2) * values).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, values = ctx.saved_tensors
        for_rows, for_values = ctx.needs_input_grad
        return _over_columns(values, grad) if for_rows else None, outer(rows, grad) if for_values else None


class _OverColumns(Function):
    """Sums over C of products of [E, L, C] and [E, C]: here a batched matrix product is the faster one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(values, columns)
        kind = torch.promote_types(values.dtype, columns.dtype)  # harmonics stay single when features are halves
        return torch.bmm(values.to(kind), columns.to(kind).unsqueeze(2)).squeeze(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        values, columns = ctx.saved_tensors
        for_values, for_columns = ctx.needs_input_grad
        return outer(grad, columns) if for_values else None, contracted(grad, values) if for_columns else None


def _over_columns(values: Tensor, columns: Tensor) -> Tensor:
    found: Tensor = _OverColumns.apply(values, columns)  # type: ignore[no-untyped-call]
    return found


def outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the products [E, L, C] of each edge's ``rows`` [E, L] and ``columns`` [E, C], with cheap derivatives.

    PyTorch's batched product of a column and a row takes six times as long as a product of broadcast tensors, and its
    sum of such a product over C takes three times as long as a batched product. Derivatives of any order of `outer` and
    `contracted` use the faster one of both. Compilers see products of broadcast tensors, which they fuse.
    """
    if _traced() or not (rows.requires_grad or columns.requires_grad):
        return rows.unsqueeze(2) * columns.unsqueeze(1)
    found: Tensor = _Outer.apply(rows, columns)  # type: ignore[no-untyped-call]
    return found


def contracted(rows: Tensor, values: Tensor) -> Tensor:
    """Return the sums over L [E, C] of ``rows`` [E, L] times ``values`` [E, L, C]; see `outer`."""
    if _traced() or not (rows.requires_grad or values.requires_grad):
        return (rows.unsqueeze(2) * values).sum(1)
    found: Tensor = _Contracted.apply(rows, values)  # type: ignore[no-untyped-call]
    return found


def _traced() -> bool:
    """Return whether a compiler or an export records the operators."""
    return torch.compiler.is_compiling() or get_proxy_mode() is not None
