"""The training loop: one model, its EMA, and a position that says everything about where it is."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gfm_pipeline.apps.contracts.training import DatasetErrors, OptimiserSettings
from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.apps.train.checkpoint import Card, Position, State
from gfm_pipeline.apps.train.flat import AdamW, clip, flatten
from gfm_pipeline.apps.train.sampler import Indices, Sampler
from gfm_pipeline.apps.train.schedule import learning_rate
from gfm_pipeline.apps.train.validate import finite, validate
from gfm_pipeline.common.errors import GFMError, IntegrityError
from gfm_pipeline.models import Potential, multitask_loss
from gfm_pipeline.models.ema import update_ema
from gfm_pipeline.models.loss import label_counts


class Diverged(GFMError):
    """The loss, the gradient or the validation errors are not finite."""


@dataclass(frozen=True)
class Tables:
    """Training and validation structures of each dataset, in the order of the branches."""

    train: tuple[GraphTable, ...]
    validation: Mapping[str, GraphTable]


class Trainer:
    """Makes steps and validations; decides nothing about when to stop.

    Parameters
    ----------
    card
        The model and its scales; kept up to date.
    tables
        The data.
    optimiser
        Learning rate, batch size and so on.
    sampler
        Which graphs are in which batch.
    state, position
        To go on from; None: random weights from the seed of ``card``.
    micro_batch
        Graphs in memory at a time, in training and validation; None: whole batches.

    Raises
    ------
    IntegrityError
        When ``state`` does not fit the model.
    """

    def __init__(
        self,
        card: Card,
        tables: Tables,
        optimiser: OptimiserSettings,
        sampler: Sampler,
        state: State | None = None,
        position: Position | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self.card, self.tables, self.settings, self.sampler = card, tables, optimiser, sampler
        self.micro_batch = micro_batch
        self.position = Position() if position is None else position
        torch.manual_seed(card.seed)
        self.model, self.average = Potential(card.spec), Potential(card.spec)
        self.average.load_state_dict(self.model.state_dict())
        self.weights = flatten(self.model, gradients=True)
        self.average_weights = flatten(self.average, gradients=False)
        self.parameters = list(self.model.parameters())
        self.adamw = AdamW(self.weights, optimiser.weight_decay)
        self.force_rms = torch.tensor(card.force_rms)
        if state is not None:
            self._restore(state)

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters)

    def _restore(self, state: State) -> None:
        try:
            self.model.load_state_dict(state.weights)
            self.average.load_state_dict(state.ema)
            self.adamw.load_state_dict(state.optimiser)
            torch.set_rng_state(state.rng)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"The checkpoint does not fit its model: {str(error).splitlines()[0]}.") from error

    def state(self) -> State:
        """Return copies of all tensors that training goes on from."""
        return State(
            _copies(self.model.state_dict()),
            _copies(self.average.state_dict()),
            self.adamw.state_dict(),
            torch.get_rng_state(),
        )

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        p, s = self.position, self.settings
        return learning_rate(s.learning_rate, p.steps, s.warmup, p.graphs, p.anneal)

    def step(self) -> None:
        """Make one optimiser step.

        Raises
        ------
        Diverged
            When the loss or its gradient is not finite; the weights are then those before the step.
        """
        started = time.perf_counter()
        position, settings = self.position, self.settings
        gradient = self.weights.grad
        if gradient is None:
            raise RuntimeError("the flat gradient was replaced")
        gradient.zero_()
        value = self._accumulate(*self.sampler.batch(position.graphs, settings.batch_size))
        norm = clip(gradient, settings.clip_norm)
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise Diverged(
                f"The loss is {value:g} and its gradient {norm:g} at step {position.steps}, "
                f"after {position.graphs} graphs.",
                "A smaller learning rate usually helps.",
            )
        self.adamw.step(self.rate)
        update_ema(self.average_weights, self.weights.detach(), settings.ema_decay, position.steps)
        elapsed = time.perf_counter() - started
        self.position = replace(
            position,
            graphs=position.graphs + settings.batch_size,
            steps=position.steps + 1,
            loss_sum=position.loss_sum + value,
            loss_count=position.loss_count + 1,
            task_graphs=position.task_graphs + settings.batch_size,
            task_seconds=position.task_seconds + elapsed,
        )

    def _accumulate(self, table: Indices, graph: Indices) -> float:
        """Add the gradient of the batch's loss to the flat gradient and return the loss.

        With a micro-batch, parts of the batch follow each other. Each part's loss is divided by the whole batch's
        numbers of labels, so that the parts' gradients add up to the whole's.
        """
        size = len(graph) if self.micro_batch is None else self.micro_batch
        starts = range(0, len(graph), size)
        parts = [collate(self.tables.train, table[k : k + size], graph[k : k + size]) for k in starts]
        counts = None
        if len(parts) > 1:
            energies, forces = zip(*map(label_counts, parts), strict=True)
            counts = (sum(energies), sum(forces))
        value = 0.0
        for part in parts:
            predicted = self.model(part, training=True)
            loss = multitask_loss(predicted, part, self.force_rms, self.settings.force_weight, counts).total
            # only the parameters' gradients are wanted: this prunes second derivatives by positions from the pass
            loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
            value += float(loss.detach())
        return value

    @property
    def train_loss(self) -> float | None:
        """Mean training loss since the last validation, None before the first step after it."""
        p = self.position
        return p.loss_sum / p.loss_count if p.loss_count else None

    def validate(self, limit: int | None) -> tuple[float, dict[str, DatasetErrors]]:
        """Validate the EMA weights and keep the result on the card and in ``position.best``.

        Raises
        ------
        Diverged
            When an error is not finite.
        """
        started = time.perf_counter()
        score, errors = validate(self.average, self.tables.validation, limit, self.micro_batch)
        p = self.position
        if not finite(list(errors.values())):
            raise Diverged(f"The validation errors are not finite at step {p.steps}, after {p.graphs} graphs.")
        best = (p.graphs, score) if p.best is None or score < p.best[1] else p.best
        elapsed = time.perf_counter() - started
        self.card = replace(self.card, graphs=p.graphs, steps=p.steps, objective=score, errors=errors)
        self.position = replace(
            p,
            best=best,
            loss_sum=0.0,
            loss_count=0,
            task_seconds=p.task_seconds + elapsed,
        )
        return score, errors


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
