"""What keeps a training pass cheap: derivatives in few operators, and no tensor wider than the features of edges."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from brute import batch
from model_cases import CUTOFF, crystal, make
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gfm_pipeline.models.layers import contracted, outer, silu
from gfm_pipeline.models.message_passing.pna import PARTS, STD_FLOOR, Aggregators

pytestmark = pytest.mark.usefixtures("one_thread")


class Operators(TorchDispatchMode):
    """Counts the operators that run, and remembers the shapes of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.counts[func.overloadpacket.__name__] += 1
        self.shapes |= {tuple(leaf.shape) for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)}
        return found


def derivatives(function: Any, x: torch.Tensor, orders: int) -> list[torch.Tensor]:
    found = [function(x)]
    for _ in range(orders):
        probe = torch.linspace(-1.0, 1.0, x.numel(), dtype=x.dtype).view_as(x)
        found += torch.autograd.grad((found[-1] * probe).sum(), x, create_graph=True)
    return found


def test_silu_has_the_value_and_derivatives_of_pytorch():
    x = torch.linspace(-30.0, 30.0, 41, dtype=torch.float64, requires_grad=True)
    for ours, theirs in zip(derivatives(silu, x, 4), derivatives(functional.silu, x, 4), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradgradcheck(silu, torch.randn(7, dtype=torch.float64, requires_grad=True))


def test_the_last_pass_through_silu_has_the_gradients_of_pytorch():
    results = []
    for function in (silu, functional.silu):
        x = torch.linspace(-4.0, 4.0, 9, dtype=torch.float64, requires_grad=True)
        weight = torch.linspace(0.5, 2.0, 9, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad((function(x) * weight).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), [x, weight]))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


def test_the_slope_of_silu_is_one_operator_even_if_it_is_differentiated_again():
    x = torch.randn(5, 3, requires_grad=True)
    value = silu(x).sum()
    with Operators() as seen:
        torch.autograd.grad(value, x, create_graph=True)
    assert seen.counts["silu_backward"] == 1
    assert not {"sigmoid", "mul"} & seen.counts.keys()


@pytest.mark.parametrize("name", ["PNA", "PNAPlus", "PNAEq"])
def test_no_tensor_of_a_training_pass_is_wider_than_the_features_of_edges(name):
    model = make(name)
    structures = batch([crystal(1), crystal(2)], CUTOFF)
    edges, hidden = structures.edge_src.shape[0], model.spec.hidden
    widest = 3 * hidden if name == "PNAEq" else hidden  # vectors of edges
    with Operators() as seen:
        found = model(structures, training=True)
        torch.autograd.grad(found.forces.square().sum(), list(model.parameters()), allow_unused=True)
    of_edges = [math.prod(shape) for shape in seen.shapes if shape and shape[0] == edges]
    assert hidden * edges <= max(of_edges) <= widest * edges


def test_the_aggregators_and_their_layer_are_those_of_the_documentation():
    torch.manual_seed(0)
    n, edges, hidden, sharpness, delta = 4, 11, 3, 4.0, 1.7
    message, gate, envelope = torch.randn(edges, hidden), torch.rand(edges, hidden), torch.rand(edges, 1)
    dst = torch.randint(0, n - 1, (edges,))  # the last atom has no neighbours
    mix = torch.nn.Linear(PARTS * hidden, hidden)
    degree = torch.zeros(n, 1).index_add(0, dst, envelope)
    rows = []
    for atom in range(n):
        w, m, t, d = envelope[dst == atom], message[dst == atom], gate[dst == atom], degree[atom]
        mean = (w * m).sum(0) / (1 + d)
        std = ((w * m * m).sum(0) / (1 + d) - mean**2 + STD_FLOOR).sqrt() - math.sqrt(STD_FLOOR)
        high, low = (torch.log(1 + (w * (torch.exp(sharpness * x) - 1)).sum(0)) / sharpness for x in (t, 1 - t))
        plain = torch.cat([mean, std, high, low])
        log_degree = torch.log(1 + d)
        rows.append(torch.cat([plain, plain * (log_degree / delta), plain * ((1 + delta) / (1 + log_degree))]))
    found = Aggregators(sharpness, delta)(message, gate, envelope, degree, dst, mix)
    torch.testing.assert_close(found, mix(torch.stack(rows)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("contracts", [False, True])
def test_products_of_harmonics_and_channels_have_all_derivatives(contracts):
    torch.manual_seed(0)
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(4, 3, 2) if contracts else torch.randn(4, 2)
    other = other.double().requires_grad_()
    function, subscripts = (contracted, "el,elc->ec") if contracts else (outer, "el,ec->elc")

    def energies(product: Any) -> torch.Tensor:
        slopes = torch.autograd.grad(product(rows, other).square().sum(), [rows, other], create_graph=True)
        return sum((slope * torch.cos(slope)).sum() for slope in slopes)

    def gradients(product: Any) -> tuple[torch.Tensor, ...]:
        second = torch.autograd.grad(energies(product), [rows, other], create_graph=True)
        return (*second, *torch.autograd.grad(sum(part.square().sum() for part in second), [rows, other]))

    expected = gradients(lambda a, b: torch.einsum(subscripts, a, b))
    torch.testing.assert_close(gradients(function), expected, rtol=1e-10, atol=1e-12)


def test_no_batched_product_of_a_column_and_a_row_is_left_in_dimenet():
    model, shapes = make("DimeNet++"), []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ == "bmm":
                shapes.append([tuple(one.shape) for one in args])
            return func(*args, **(kwargs or {}))

    with Products():
        found = model(batch([crystal(1)], CUTOFF), training=True)
        torch.autograd.grad(found.forces.square().sum(), list(model.parameters()), allow_unused=True)
    assert shapes
    assert all(b[2] == 1 for _, b in shapes if len(b) == 3 and b[0] > 3)  # a few are of the stacked heads
