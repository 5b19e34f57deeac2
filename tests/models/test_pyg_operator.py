"""Operators of PyTorch Geometric as algorithms: what they compute, and which are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gfm_pipeline.core.contracts import algorithms as descriptions
from gfm_pipeline.core.contracts.algorithms import BUILT_IN
from gfm_pipeline.core.errors import ModelError, Refused
from gfm_pipeline.models import ModelSpec

pytest.importorskip("torch_geometric")

from torch_geometric.nn import (
    CGConv,
    GATv2Conv,
    GCNConv,
    GINEConv,
    ResGatedGraphConv,
    SAGEConv,
    TransformerConv,
)

from gfm_pipeline.models.pyg_operator import OperatorAlgorithm

SPEC = ModelSpec("SchNet", hidden=8, layers=2, cutoff=4.0, avg_neighbours=4.0)


def built(make) -> OperatorAlgorithm:
    class Built(OperatorAlgorithm):
        def operator(self, hidden: int, edge_dim: int) -> nn.Module:
            return make(hidden, edge_dim)

    torch.manual_seed(0)
    return Built(SPEC, {})


@pytest.mark.parametrize(
    "make",
    [
        lambda h, _: SAGEConv(h, h),  # a mean
        lambda h, _: SAGEConv(h, h, aggr="max"),
        lambda h, _: GCNConv(h, h, add_self_loops=False),  # degrees
        lambda h, e: GATv2Conv(h, h, edge_dim=e, add_self_loops=False),  # a softmax
        lambda h, e: TransformerConv(h, h, edge_dim=e),
        lambda h, e: CGConv(h, dim=e, aggr="mean"),
    ],
    ids=["mean", "max", "degrees", "softmax", "transformer", "mean with edges"],
)
def test_an_operator_that_jumps_at_the_cutoff_is_refused_by_name(make) -> None:
    with pytest.raises(ModelError, match="Conv depends on a neighbour at the cutoff"):
        built(make)


def test_what_is_no_operator_or_changes_the_width_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Linear is not a torch_geometric\.nn\.MessagePassing"):
        built(lambda h, _: nn.Linear(h, h))
    with pytest.raises(ModelError, match="GCNConv sends messages along edges of its own"):
        built(lambda h, _: GCNConv(h, h))
    with pytest.raises(ModelError, match="SAGEConv makes 16 channels of 8"):
        built(lambda h, _: SAGEConv(h, 2 * h, aggr="sum"))


def test_messages_are_those_of_the_operator_times_the_envelope() -> None:
    model = built(lambda h, e: GINEConv(nn.Linear(h, h), edge_dim=e))
    layer, x = model.layers[0], torch.randn(3, 8)
    src, dst = torch.tensor([1, 2, 0, 0]), torch.tensor([0, 0, 1, 2])
    basis, fade = model.radial(torch.tensor([[1.5], [3.0], [1.5], [3.0]]))
    message = torch.relu(x[src] + layer.operator.lin(basis)) * fade / 2.0
    expected = layer.operator.nn(x + torch.zeros_like(x).index_add(0, dst, message))
    torch.testing.assert_close(layer(x, torch.stack([src, dst]), basis, fade), expected)
    model = built(lambda h, _: SAGEConv(h, h, aggr="sum"))
    layer = model.layers[0]
    summed = torch.zeros_like(x).index_add(0, dst, x[src] * layer.filter(basis) / 2.0)
    expected = layer.operator.lin_l(summed) + layer.operator.lin_r(x)
    torch.testing.assert_close(layer(x, torch.stack([src, dst]), basis, fade), expected)


def test_gates_on_both_ends_serve_as_they_are() -> None:
    model = built(lambda h, e: ResGatedGraphConv(h, h, edge_dim=e))
    z, pos = torch.tensor([1, 6, 8]), torch.tensor([[0.0, 0, 0], [1.1, 0, 0], [0, 1.3, 0]], requires_grad=True)
    src, dst = torch.tensor([0, 1, 0, 2]), torch.tensor([1, 0, 2, 0])
    x, vectors = model(z, pos[dst] - pos[src], src, dst)
    assert vectors is None
    (slope,) = torch.autograd.grad(x.square().sum(), pos, create_graph=True)
    slope.square().sum().backward()
    assert all(p.grad is not None for layer in model.layers for p in layer.parameters())


def test_without_pytorch_geometric_its_algorithms_are_refused_with_the_extra_that_brings_it(monkeypatch) -> None:
    monkeypatch.setattr(descriptions, "find_spec", lambda _: None)
    BUILT_IN["PaiNN"].check_installed("PaiNN")
    with pytest.raises(Refused, match="cannot be GIN: it needs torch_geometric, which is not installed") as caught:
        BUILT_IN["GIN"].check_installed("GIN")
    assert "pip install 'gfm-pipeline[pyg]'" in caught.value.hint
