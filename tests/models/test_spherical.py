"""Spherical harmonics and their couplings, against rotations and by counting."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from gfm_pipeline.models.message_passing.dimenet import DimeNetInteraction
from gfm_pipeline.models.message_passing.mace import SymmetricContraction
from gfm_pipeline.models.spherical import (
    XYZ,
    Constant,
    SphericalHarmonics,
    coupling,
    monomials,
    offsets,
    symmetric_basis,
)

L = 6


@pytest.fixture(scope="module")
def turned() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a rotation, and the matrix it is for components of each order, fitted to the harmonics."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q = torch.from_numpy(q * np.sign(np.linalg.det(q)))
    way = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(200, 3))), dim=1)
    before, after = SphericalHarmonics(L)(way), SphericalHarmonics(L)(way @ q.T)
    matrices = [torch.linalg.lstsq(a, b).solution.T for a, b in zip(before, after, strict=True)]
    for a, b, d in zip(before, after, matrices, strict=True):
        torch.testing.assert_close(a @ d.T, b, atol=1e-12, rtol=0)
        torch.testing.assert_close(d @ d.T, torch.eye(len(d), dtype=d.dtype), atol=1e-12, rtol=0)
    return q, matrices


def test_harmonics_have_unit_components_parity_and_the_order_of_xyz() -> None:
    way = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    for order, (there, back) in enumerate(zip(SphericalHarmonics(L)(way), SphericalHarmonics(L)(-way), strict=True)):
        torch.testing.assert_close((there**2).sum(1), torch.full((50,), 2.0 * order + 1, dtype=torch.float64))
        torch.testing.assert_close(back, (-1) ** order * there)
    torch.testing.assert_close(SphericalHarmonics(1)(way)[1][:, list(XYZ)], 3**0.5 * way)


def test_harmonics_are_orthonormal_over_the_sphere() -> None:
    z, weight = np.polynomial.legendre.leggauss(L + 1)
    phi = 2 * np.pi * np.arange(2 * L + 2) / (2 * L + 2)
    r = np.sqrt(1 - z**2)
    way = np.stack([np.outer(r, np.cos(phi)), np.outer(r, np.sin(phi)), np.outer(z, np.ones_like(phi))], -1)
    values = torch.cat(SphericalHarmonics(L)(torch.from_numpy(way.reshape(-1, 3))), 1).numpy()
    mean = values.T @ (values * np.repeat(weight / 2 / len(phi), len(phi))[:, None])
    np.testing.assert_allclose(mean, np.eye((L + 1) ** 2), atol=1e-12)


def test_couplings_turn_with_what_they_couple(turned) -> None:
    _, d = turned
    for l1, l2 in product(range(4), range(4)):
        for l3 in range(abs(l1 - l2), l1 + l2 + 1):
            c = torch.from_numpy(coupling(l1, l2, l3))
            there = torch.einsum("ijk,ia,jb->abk", c, d[l1], d[l2])
            torch.testing.assert_close(there, torch.einsum("abc,kc->abk", c, d[l3]), atol=1e-12, rtol=0)
            assert float((c**2).sum()) == pytest.approx(2 * l3 + 1)


@pytest.mark.parametrize("l_max", [1, 2, 3])
@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_symmetric_products_turn_and_are_complete(turned, l_max, degree, order) -> None:
    """As many paths as the mean over rotations of characters says, which counts what no combination can miss."""
    _, d = turned
    basis = torch.from_numpy(symmetric_basis(l_max, degree, order).copy())
    n = (l_max + 1) ** 2
    whole = torch.zeros(n, n, dtype=torch.float64)
    for place, block in zip(offsets(l_max), d, strict=False):
        whole[place, place] = block
    index = torch.tensor(monomials(n, degree))

    def value(a: torch.Tensor) -> torch.Tensor:
        return basis @ a[index].prod(1)

    a = torch.randn(n, dtype=torch.float64)
    torch.testing.assert_close(value(whole @ a), value(a) @ d[order].T, atol=1e-10, rtol=0)
    # the character of a rotation by t is sum_l sin((l + 1/2) t) / sin(t / 2), that of a power Newton's sums of its
    # multiples; rotations with and without inversion are averaged, which leaves what has the parity of the target
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = np.pi * (nodes + 1) / 2
    haar = weights * np.pi / 2 * (1 - np.cos(t)) / np.pi

    def trace(angle, sign):
        return sum(sign**k * np.sin((k + 0.5) * angle) / np.sin(angle / 2) for k in range(l_max + 1))

    count = 0.0
    for sign in (1, -1):
        p1, p2, p3 = trace(t, sign), trace(2 * t, 1), trace(3 * t, sign)
        power = {1: p1, 2: (p1**2 + p2) / 2, 3: (p1**3 + 3 * p1 * p2 + 2 * p3) / 6}[degree]
        target = sign**order * np.sin((order + 0.5) * t) / np.sin(t / 2)
        count += float((haar * power * target).sum()) / 2
    assert len(basis) == round(count)


def test_a_contraction_is_the_product_of_its_paths(turned) -> None:
    torch.manual_seed(0)
    layer = SymmetricContraction(2, 3, 2, 4).double()
    a, z = torch.randn(3, 9, 4, dtype=torch.float64), torch.tensor([1, 8, 1])
    new = layer(a, z)
    _, d = turned
    whole = torch.block_diag(*d[:3])
    for order, (x, y) in enumerate(zip(new, layer(torch.einsum("ij,njc->nic", whole, a), z), strict=True)):
        torch.testing.assert_close(y, torch.einsum("ij,njc->nic", d[order], x), atol=1e-10, rtol=0)
    assert layer(100 * a, z)[0].norm() > 1e5 * new[0].norm()  # cubes are among the products


def test_angles_of_dimenet_are_legendre_polynomials_between_edges() -> None:
    """The sum at the atom between equals the sum over pairs of edges, for two edges and one that arrives."""
    torch.manual_seed(0)
    layer = DimeNetInteraction(5, 4, 3, 5, 1.0).double()
    way = torch.nn.functional.normalize(torch.randn(2, 3, dtype=torch.float64), dim=1)
    basis, m = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    seen = {}
    layer.up.register_forward_hook(lambda _, given, __: seen.update(turned=given[0]))
    arriving = SphericalHarmonics(4)(way)
    leaving = [x / (5 * (2 * k + 1)) ** 0.5 for k, x in enumerate(arriving)]
    layer(m, basis, (arriving, leaving), torch.tensor([0, 1]), torch.tensor([1, 2]), 3)
    before = torch.nn.functional.silu(layer.before(m)) * layer.filter(basis)
    before = torch.nn.functional.silu(layer.down(before))[0]
    cosine = float(way[0] @ way[1])
    radial = layer.angular(basis)[0].view(5, 3)
    expected = sum(
        before
        * radial[k]
        * (2 * k + 1)
        * np.polynomial.legendre.legval(cosine, np.eye(5)[k])
        / (5 * (2 * k + 1)) ** 0.5
        for k in range(5)
    )
    torch.testing.assert_close(seen["turned"][1], expected)
    torch.testing.assert_close(seen["turned"][0], torch.zeros(3, dtype=torch.float64))


def test_constants_are_rounded_once() -> None:
    exact = torch.tensor([1 / 3], dtype=torch.float64)
    constant = Constant(exact)
    assert constant().dtype == torch.float32
    assert constant.double()().item() == 1 / 3
    assert constant.float().double()().item() == 1 / 3
    assert not constant.state_dict()
