"""GraphSAGE: adds filtered sums of neighbours to the atom's features, by PyTorch Geometric's SAGEConv."""

from __future__ import annotations

from torch import nn
from torch_geometric.nn import SAGEConv

from gfm_pipeline.models.pyg_operator import OperatorAlgorithm


class GraphSAGE(OperatorAlgorithm):
    """GraphSAGE (Hamilton, Ying, Leskovec, NeurIPS 2017), smooth.

    The paper's mean over neighbours jumps when a neighbour enters. Here the mean is a sum divided by the mean number of
    neighbours in the training data, and a learned filter of the distance multiplies each neighbour.
    """

    def operator(self, hidden: int, edge_dim: int) -> nn.Module:  # noqa: ARG002 - it knows no features of edges
        """See `OperatorAlgorithm.operator`."""
        layer: nn.Module = SAGEConv(hidden, hidden, aggr="sum")
        return layer
