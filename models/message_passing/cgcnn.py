"""CGCNN: gated crystal graph convolutions, by PyTorch Geometric's CGConv."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import CGConv

from gfm_pipeline.models.pyg_operator import OperatorAlgorithm


class CGCNN(OperatorAlgorithm):
    """Crystal graph convolutional network (Xie, Grossman, Phys. Rev. Lett. 120, 145301, 2018).

    The paper's edges are a list of nearest neighbours with Gaussians of their distance, and its layers normalise over
    the batch; here neighbours fade at the cutoff, edges carry the Bessel basis, and no structure depends on others in
    its batch.
    """

    def operator(self, hidden: int, edge_dim: int) -> nn.Module:
        """See `OperatorAlgorithm.operator`."""
        layer: nn.Module = CGConv(hidden, dim=edge_dim, aggr="sum", batch_norm=False)
        return layer

    def update(self, x: Tensor, result: Tensor) -> Tensor:  # noqa: ARG002
        """Return the result, since CGConv already adds the features."""
        return result
