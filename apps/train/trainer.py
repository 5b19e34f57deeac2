"""The training loop: one model, its EMA, and a position that says everything about where it is."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gfm_pipeline.apps.dataset import GraphTable
from gfm_pipeline.apps.dataset.batching.graph_source import Source
from gfm_pipeline.apps.train.batch_loader import Feed
from gfm_pipeline.apps.train.checkpoint import Card, Position, State
from gfm_pipeline.apps.train.device import CPU
from gfm_pipeline.apps.train.distributed import ALONE, Ranks
from gfm_pipeline.apps.train.flat_parameters import AdamW, clip, flatten, with_tail
from gfm_pipeline.apps.train.sampler import Sampler
from gfm_pipeline.apps.train.schedule import learning_rate
from gfm_pipeline.apps.train.validate import finite, validate
from gfm_pipeline.core.contracts.training import DatasetErrors, OptimiserSettings
from gfm_pipeline.core.errors import GFMError, IntegrityError, NodeError
from gfm_pipeline.models import Potential, multitask_loss
from gfm_pipeline.models.ema import update_ema


class Diverged(GFMError):
    """The loss, the gradient or the validation errors are not finite."""


@dataclass(frozen=True)
class Tables:
    """Training and validation structures of each dataset, in the order of the branches."""

    train: tuple[Source, ...]
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
    ranks
        Who trains together: all make the same steps, each computes its share of them. ``state`` is rank 0's to give.
    device
        Where the model is.

    Raises
    ------
    IntegrityError
        When ``state`` does not fit the model.
    NodeError
        When another rank is gone.
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
        ranks: Ranks = ALONE,
        device: torch.device = CPU,
    ) -> None:
        self.card, self.tables, self.settings = card, tables, optimiser
        self.feed = Feed(tables.train, sampler, optimiser.batch_size, ranks.rank, ranks.size, micro_batch)
        self.micro_batch, self.ranks, self.device = micro_batch, ranks, device
        self.asked_to_stop = False  # some rank was, before the last step
        self.position = Position() if position is None else position
        torch.manual_seed(card.seed)
        # built in main memory: the same random weights on every kind of device
        self.model, self.average = Potential(card.spec).to(device), Potential(card.spec).to(device)
        self.average.load_state_dict(self.model.state_dict())
        self.weights = flatten(self.model, gradients=True)
        self.average_weights = flatten(self.average, gradients=False)
        self.parameters = list(self.model.parameters())
        self.adamw = AdamW(self.weights, optimiser.weight_decay)
        self.force_rms = torch.tensor(card.force_rms, device=device)
        if state is not None:
            self._restore(state)
        if ranks.size > 1:
            self._take_first()

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

    def _take_first(self) -> None:
        """Take over what rank 0 goes on from."""
        for tensor in (self.weights.data, self.average_weights.data, self.adamw.mean, self.adamw.square):
            self.ranks.take(tensor)
        self.adamw.steps = int(self.ranks.told(self.adamw.steps))

    def _compare(self) -> None:
        """Raise `NodeError` when the ranks' weights are not the same to the bit: some machine computes wrongly."""
        bits = self.weights.data.view(torch.int32).sum(dtype=torch.int64).reshape(1)
        total = bits.clone()
        self.ranks.sum(total)
        if not torch.equal(total, bits * self.ranks.size):
            raise NodeError(f"The ranks' weights differ after {self.position.graphs} graphs.")

    def state(self) -> State:
        """Return copies in main memory of all tensors that training goes on from."""
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

    def step(self, stopping: bool = False) -> None:
        """Make one optimiser step.

        Parameters
        ----------
        stopping
            Whether this process was asked to stop: told to the other ranks along with the gradient, so that
            `asked_to_stop` says the same on all of them afterwards.

        Raises
        ------
        Diverged
            When the loss or its gradient is not finite; the weights are then those before the step. All ranks see
            the same sums, so they agree.
        NodeError
            When another rank is gone.
        """
        started = time.perf_counter()
        position, settings = self.position, self.settings
        gradient = self.weights.grad
        if gradient is None:
            raise RuntimeError("the flat gradient was replaced")
        gradient.zero_()
        value = self._accumulate()
        if self.ranks.size > 1:
            message, tail = with_tail(gradient)
            tail[0], tail[1] = value, float(stopping)
            self.ranks.sum(message)
            value, asked = tail[:2].tolist()
            self.asked_to_stop = asked > 0
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

    def _accumulate(self) -> float:
        """Add the gradient of this rank's share of the batch's loss to the flat gradient and return that share.

        With a micro-batch, parts of the share follow each other. Each part's loss is divided by the whole batch's
        numbers of labels, so that the gradients of all parts of all ranks add up to the whole's.
        """
        parts, counts = self.feed.share(self.position.graphs)
        value = 0.0
        for part in parts:
            part = part.to(self.device)
            predicted = self.model(part, training=True)
            loss = multitask_loss(predicted, part, self.force_rms, self.settings.force_weight, counts).total
            # only the parameters' gradients are wanted: this prunes second derivatives by positions from the pass
            loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
            value += float(loss.detach())
        return value

    def close(self) -> None:
        """Stop reading ahead."""
        self.feed.close()

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
        NodeError
            When another rank is gone, or has other weights.
        """
        started = time.perf_counter()
        if self.ranks.size > 1:
            self._compare()
        score, errors = validate(self.average, self.tables.validation, limit, self.micro_batch, self.ranks, self.device)
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
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
