"""GraphSAGE: filtered sums of neighbours added to the atom's features, by PyTorch Geometric's SAGEConv."""

from __future__ import annotations

from torch import nn
from torch_geometric.nn import SAGEConv

from gfm_pipeline.models.pyg_operator import OperatorAlgorithm


class GraphSAGE(OperatorAlgorithm):
    """GraphSAGE (Hamilton, Ying, Leskovec, NeurIPS 2017), smooth.

    The paper's mean over neighbours jumps when one enters; here it is a sum over the mean number of neighbours of the
    training data, and each neighbour is multiplied by a learned filter of its distance.
    """

    def operator(self, hidden: int, edge_dim: int) -> nn.Module:  # noqa: ARG002 - it knows no features of edges
        """See `OperatorAlgorithm.operator`."""
        layer: nn.Module = SAGEConv(hidden, hidden, aggr="sum")
        return layer
