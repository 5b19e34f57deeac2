"""GIN: sums of neighbours through a network, with features of edges, by PyTorch Geometric's GINEConv."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import GINEConv

from gfm_pipeline.models.layers import mlp, silu
from gfm_pipeline.models.pyg_operator import OperatorAlgorithm


class SmoothGINE(GINEConv):  # type: ignore[misc]  # PyTorch Geometric is not typed
    """GINEConv with SiLU instead of the ReLU in its messages, whose kink would make forces jump."""

    def message(self, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """Return messages [E, H]."""
        return silu(x_j + self.lin(edge_attr))


class GIN(OperatorAlgorithm):
    """Graph isomorphism network (Xu et al., ICLR 2019) with features of edges (GINE: Hu et al., ICLR 2020), smooth."""

    def operator(self, hidden: int, edge_dim: int) -> nn.Module:
        """See `OperatorAlgorithm.operator`."""
        return SmoothGINE(mlp(hidden, hidden, hidden), train_eps=True, edge_dim=edge_dim, aggr="sum")

    def update(self, x: Tensor, result: Tensor) -> Tensor:
        """Return the sum, after the operator's own network."""
        return x + result
