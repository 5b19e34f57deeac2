"""Shifts of the energy per element and dataset, solved in closed form and not learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.targets import Level, Reference, Target
from gfm_pipeline.models.layers import MAX_Z, scatter_sum

# Names of parts of a model until 2026-11-30, so that older checkpoints still load.
_FORMER_NAMES = {"trunk": "representation", "direct": "force_head", "edge_vectors": "vector_features"}


def is_shifted(target: Target) -> bool:
    """Return whether a target has a shift: its values are sums over atoms, and it has references per element."""
    return target.level is Level.GRAPH and target.reference is Reference.ELEMENTS


class CompositionShift(nn.Module):
    """One number per dataset and element, summed over the atoms of a structure; zero until set.

    It corrects the reference values of labels by the mean error of the network. It does not depend on positions, so
    derivatives of the energy are unaffected. Gradients do not reach it.

    Parameters
    ----------
    n_datasets
        Number of datasets of the model.
    """

    values: Tensor

    def __init__(self, n_datasets: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(n_datasets, MAX_Z))

    def forward(self, z: Tensor, dataset: Tensor, graph: Tensor, n: int) -> Tensor:
        """Return the shifts of ``n`` structures [G] from atomic numbers ``z`` [N] and datasets of atoms [N]."""
        of_atoms = self.values.view(-1).index_select(0, dataset * MAX_Z + (z - 1))
        return scatter_sum(of_atoms, graph, n)


def open_former(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the parts in a state dict of an earlier version, and add the shifts that it lacks."""
    for name, shift in module.named_children():
        if isinstance(shift, CompositionShift):
            state.setdefault(f"{prefix}{name}.values", torch.zeros_like(shift.values))
    for key in [key for key in state if key.startswith(prefix)]:
        part, dot, rest = key[len(prefix) :].partition(".")
        if part in _FORMER_NAMES and dot:
            state[f"{prefix}{_FORMER_NAMES[part]}.{rest}"] = state.pop(key)
