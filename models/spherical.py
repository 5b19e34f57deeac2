"""Real spherical harmonics and their couplings, the basis of equivariant algorithms of order two and more.

Features of order l have 2l + 1 components m = -l ... l; those of order one are (y, z, x). Parity is (-1)**l throughout.
All coefficients are computed from closed formulas, so that they, and with them checkpoints, are the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

XYZ = (2, 0, 1)  # components of order one as x, y, z
_INDEPENDENT = 1e-6  # smallest remainder of a path that is independent of the others

Array = NDArray[np.float64]


class Constant(nn.Module):
    """A constant tensor on the device and in the dtype of its model, rounded from float64 only once."""

    value: Tensor

    def __init__(self, exact: Tensor) -> None:
        super().__init__()
        self.exact = exact.double()
        self.register_buffer("value", self.exact.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.value = self.exact.to(self.value)
        return self

    def forward(self) -> Tensor:
        """Return the constant."""
        return self.value


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics of orders 0 to ``l_max``; of each order the squares sum to 2l + 1.

    They are polynomials of the direction, so any number of derivatives exists.
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max

    def forward(self, direction: Tensor) -> list[Tensor]:
        """Return one tensor [E, 2l + 1] for each order, of unit vectors [E, 3]."""
        x, y, z = direction.unbind(1)
        one = torch.ones_like(x)
        cosines, sines = [one], [torch.zeros_like(x)]  # real and imaginary part of (x + iy)**m
        for _ in range(self.l_max):
            cosines.append(x * cosines[-1] - y * sines[-1])
            sines.append(x * sines[-1] + y * cosines[-2])
        legendre: dict[tuple[int, int], Tensor] = {}  # associated Legendre polynomials of z over sin(theta)**m
        for m in range(self.l_max + 1):
            legendre[m, m] = one * float(math.prod(range(1, 2 * m, 2)))
            for order in range(m + 1, self.l_max + 1):
                below = (2 * order - 1) * z * legendre[order - 1, m]
                if order > m + 1:
                    below = below - (order + m - 1) * legendre[order - 2, m]
                legendre[order, m] = below / (order - m)
        return [
            torch.stack([_norm(order, abs(m)) * legendre[order, abs(m)] * (sines[-m] if m < 0 else cosines[m])
                         for m in range(-order, order + 1)], 1)
            for order in range(self.l_max + 1)
        ]  # fmt: skip


def _norm(order: int, m: int) -> float:
    ratio = math.factorial(order - m) / math.factorial(order + m)
    return math.sqrt((2 * order + 1) * ratio * (1.0 if m == 0 else 2.0))


def _clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j3: int, m3: int) -> float:
    """Return the complex coefficient <j1 m1 j2 m2 | j3 m3> by Racah's formula, for m1 + m2 = m3."""
    f = math.factorial
    total = Fraction(0)
    for k in range(max(0, j2 - j3 - m1, j1 + m2 - j3), min(j1 + j2 - j3, j1 - m1, j2 + m2) + 1):
        parts = (k, j1 + j2 - j3 - k, j1 - m1 - k, j2 + m2 - k, j3 - j2 + m1 + k, j3 - j1 - m2 + k)
        total += Fraction((-1) ** k, math.prod(f(part) for part in parts))
    square = (2 * j3 + 1) * f(j3 + j1 - j2) * f(j3 - j1 + j2) * f(j1 + j2 - j3)
    square *= f(j3 + m3) * f(j3 - m3) * f(j1 - m1) * f(j1 + m1) * f(j2 - m2) * f(j2 + m2)
    return float(total) * math.sqrt(Fraction(square, f(j1 + j2 + j3 + 1)))


def _to_complex(order: int) -> NDArray[np.complex128]:
    """Return the unitary matrix [2l + 1, 2l + 1] from real components to complex ones."""
    matrix = np.zeros((2 * order + 1, 2 * order + 1), dtype=np.complex128)
    for m in range(-order, order + 1):
        if m < 0:
            matrix[m + order, -m + order], matrix[m + order, m + order] = math.sqrt(0.5), -1j * math.sqrt(0.5)
        elif m == 0:
            matrix[order, order] = 1.0
        else:
            sign = (-1) ** m
            matrix[m + order, m + order] = sign * math.sqrt(0.5)
            matrix[m + order, -m + order] = 1j * sign * math.sqrt(0.5)
    return matrix


@cache
def coupling(l1: int, l2: int, l3: int) -> Array:
    """Return the coupling of ``l1`` and ``l2`` to ``l3`` [2 l1 + 1, 2 l2 + 1, 2 l3 + 1]; squares sum to 2 l3 + 1."""
    complex_ = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1, m2 in product(range(-l1, l1 + 1), range(-l2, l2 + 1)):
        if abs(m1 + m2) <= l3:
            complex_[m1 + l1, m2 + l2, m1 + m2 + l3] = _clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
    turned = np.einsum("abc,ai,bj,ck->ijk", complex_, _to_complex(l1), _to_complex(l2), _to_complex(l3).conj())
    real = turned.real if (l1 + l2 + l3) % 2 == 0 else turned.imag
    return np.ascontiguousarray(real)


def couples(l1: int, l2: int, l3: int) -> bool:
    """Return whether two orders couple to a third of parity (-1)**l3."""
    return abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0


def offsets(l_max: int) -> list[slice]:
    """Return the slices of the components of each order in [(l_max + 1)**2]."""
    return [slice(order * order, (order + 1) ** 2) for order in range(l_max + 1)]


def monomials(n: int, degree: int) -> list[tuple[int, ...]]:
    """Return the products of ``degree`` out of ``n`` components, as ascending indices."""
    return list(combinations_with_replacement(range(n), degree))


@cache
def symmetric_basis(l_max: int, degree: int, order: int) -> Array:
    """Return the couplings of products of ``degree`` equal features to an equivariant of ``order``.

    The features hold the orders 0 to ``l_max``. The result [paths, 2 order + 1, monomials] acts on the products of
    `monomials`; its paths are orthonormal, and complete: every symmetric equivariant polynomial of that degree and of
    natural parity is a combination of them.
    """
    n = (l_max + 1) ** 2
    place = {indices: k for k, indices in enumerate(monomials(n, degree))}
    position = np.array([place[tuple(sorted(indices))] for indices in product(range(n), repeat=degree)])
    permutations = np.bincount(position)  # multiplicity of a monomial in a symmetric tensor
    found: list[Array] = []
    for tensor in _products(l_max, degree, order):
        path = np.zeros((len(place), 2 * order + 1))
        np.add.at(path, position, tensor.reshape(-1, 2 * order + 1))
        for other in found + found:  # Gram-Schmidt, twice because of rounding
            dual = path / permutations[:, None]
            path = path - other * (float((dual * other).sum()) / (2 * order + 1))
        dual = path / permutations[:, None]
        size = math.sqrt(float((dual * path).sum()) / (2 * order + 1))
        if size > _INDEPENDENT:
            found.append(path / size)
    return np.stack(found).transpose(0, 2, 1) if found else np.zeros((0, 2 * order + 1, len(place)))


def _products(l_max: int, degree: int, order: int) -> Iterator[Array]:
    """Yield the products of ``degree`` features coupled to ``order`` [n] * degree + [2 order + 1]."""
    for _, total, joined, tensor in _chains(l_max, degree, order):
        if joined == order and (total + order) % 2 == 0:
            yield tensor


def _chains(l_max: int, degree: int, only: int | None = None) -> Iterator[tuple[int, int, int, Array]]:
    """Yield products of ascending orders: the last order, their sum, the resulting order, and the tensor."""
    n, places = (l_max + 1) ** 2, offsets(l_max)
    if degree == 1:
        for order in range(l_max + 1):
            one = np.zeros((n, 2 * order + 1))
            one[places[order]] = np.eye(2 * order + 1)
            yield order, order, order, one
        return
    for last, total, joined, tensor in _chains(l_max, degree - 1):
        for order in range(last, l_max + 1):
            for result in range(abs(joined - order), joined + order + 1):
                if only is None or result == only:
                    step = np.zeros((2 * joined + 1, n, 2 * result + 1))
                    step[:, places[order]] = coupling(joined, order, result)
                    yield order, total + order, result, np.tensordot(tensor, step, axes=(-1, 0))
