"""What is added to the energy of each element in each dataset once a model was trained: solved for, not learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.targets import Level, Reference, Target
from gfm_pipeline.models.layers import MAX_Z, scatter_sum


def is_shifted(target: Target) -> bool:
    """Return whether a target has a shift: its values are sums over atoms, and it has references of elements."""
    return target.level is Level.GRAPH and target.reference is Reference.ELEMENTS


class CompositionShift(nn.Module):
    """A number per dataset and element, summed over the atoms of a structure; zero until it is set.

    It corrects the reference values that labels were taken relative to, by what the network is off on average. It does
    not depend on positions, so derivatives of the energy do not know it. Gradients do not reach it.

    Parameters
    ----------
    n_datasets
        Of the model.
    """

    values: Tensor

    def __init__(self, n_datasets: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(n_datasets, MAX_Z))

    def forward(self, z: Tensor, dataset: Tensor, graph: Tensor, n: int) -> Tensor:
        """Return what is added to ``n`` structures [G], of atoms of numbers ``z`` [N] and datasets [N]."""
        of_atoms = self.values.view(-1).index_select(0, dataset * MAX_Z + (z - 1))
        return scatter_sum(of_atoms, graph, n)
