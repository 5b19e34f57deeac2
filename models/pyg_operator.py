"""A message passing operator of PyTorch Geometric as an algorithm."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.layers import Embedding, lengths_and_directions, linear, silu
from gfm_pipeline.models.radial import RadialBasis
from gfm_pipeline.models.registry import MessagePassing
from gfm_pipeline.models.spec import ModelSpec

EDGES = "edge_attr"  # the argument of an operator's forward that takes features of edges


class Layer(nn.Module):
    """One operator, with a factor on its messages that fades at the cutoff.

    An operator that takes ``edge_attr`` receives the radial basis there, and the envelope multiplies its messages. For
    an operator without edge features, a learned, bias-free filter of the basis multiplies its messages.
    """

    def __init__(self, operator: nn.Module, hidden: int, n_radial: int, norm: float) -> None:
        super().__init__()
        self.operator, self.norm = operator, norm
        self.with_edges = EDGES in inspect.signature(operator.forward).parameters
        self.filter = None if self.with_edges else linear(n_radial, hidden, bias=False, gain=2.0)

    def forward(self, x: Tensor, edge_index: Tensor, basis: Tensor, envelope: Tensor) -> Tensor:
        """Return the operator's output for node features [N, H]."""
        factor = (envelope if self.filter is None else self.filter(basis)) * self.norm
        given = {EDGES: basis} if self.with_edges else {}

        def faded(_module: nn.Module, _inputs: Any, message: Tensor) -> Tensor:
            if message.shape[0] != factor.shape[0]:
                raise ModelError(
                    f"The operator {type(self.operator).__name__} sends messages along edges of its own.",
                    "Switch its self-loops off (add_self_loops=False).",
                )
            if self.with_edges:  # messages are [E, channels], or of several heads [E, heads, channels]
                return message * factor.reshape(-1, *(1,) * (message.dim() - 1))
            return message * factor.view_as(message)

        hook = self.operator.register_message_forward_hook(faded)  # type: ignore[operator]
        try:
            result: Tensor = self.operator(x, edge_index, **given)
        finally:
            hook.remove()
        return result


class OperatorAlgorithm(MessagePassing):
    """Layers of a ``torch_geometric.nn.MessagePassing`` operator between an embedding and the heads.

    A subclass defines one layer in `operator` and, if needed, how its result changes the features in `update`. The
    operator must add up messages (``aggr="sum"``). An operator whose result depends on a neighbour at exactly the
    cutoff (a mean, a maximum, a softmax over neighbours, a scaling by degrees) is refused, since energies would jump
    there. Prefer smooth activations inside the operator: ReLU makes forces jump.

    Raises
    ------
    ModelError
        When the operator changes the width of features, or its result depends on a neighbour at the cutoff.
    """

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        self.embedding = Embedding(spec.hidden, deviation=0.5)
        self.radial = RadialBasis(spec.n_radial, spec.cutoff)
        norm = 1.0 / math.sqrt(spec.avg_neighbours)
        self.layers = nn.ModuleList(
            Layer(self.operator(spec.hidden, spec.n_radial), spec.hidden, spec.n_radial, norm)
            for _ in range(spec.layers)
        )
        self._check_cutoff()

    @abstractmethod
    def operator(self, hidden: int, edge_dim: int) -> nn.Module:
        """Return one operator from ``hidden`` to ``hidden`` channels; features of edges have ``edge_dim`` channels."""

    def update(self, x: Tensor, result: Tensor) -> Tensor:
        """Return the new features [N, H] from the old ones and the operator's result."""
        return x + silu(result)

    def forward(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `MessagePassing.forward`; operators on lengths have no vectors."""
        distance, _ = lengths_and_directions(vec)
        basis, envelope = self.radial(distance)
        edge_index = torch.stack([src, dst])
        x = self.embedding(z)
        for layer in self.layers:
            x = self.update(x, layer(x, edge_index, basis, envelope))
        return x, None

    @torch.no_grad()
    def _check_cutoff(self) -> None:
        """Compare two atoms with the same two plus a third at the cutoff, whose messages have faded to zero."""
        layer = self.layers[0]
        name = type(layer.operator).__name__
        if not hasattr(layer.operator, "register_message_forward_hook"):
            raise ModelError(f"{name} is not a torch_geometric.nn.MessagePassing.", "Return one from operator().")
        training = layer.training
        layer.eval()  # torch's evaluation mode, without dropout, for the comparison; this is no eval of text
        x = torch.linspace(-1.0, 1.0, 3 * self.spec.hidden).view(3, -1)
        pair, third = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[2, 0], [0, 2]])
        basis, envelope = self.radial(torch.tensor([[0.4], [0.4], [1.0], [1.0]]) * self.spec.cutoff)
        without = layer(x, pair, basis[:2], envelope[:2])
        if without.shape != x.shape:
            raise ModelError(
                f"The operator {name} makes {without.shape[-1]} channels of {self.spec.hidden}.",
                "Return one that keeps the width; of several heads, hidden // heads channels each or their mean.",
            )
        if not torch.allclose(without, layer(x, torch.cat([pair, third], 1), basis, envelope), rtol=1e-4, atol=1e-5):
            raise ModelError(
                f"The result of the operator {name} depends on a neighbour at the cutoff: energies would jump there.",
                'Let it add up messages (aggr="sum"), without normalisation by degrees or a softmax over neighbours.',
            )
        layer.train(training)
