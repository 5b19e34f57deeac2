"""The training loop: one model, its EMA, and the state of its training."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gfm_pipeline.apps.dataset import GraphTable
from gfm_pipeline.apps.dataset.batching.graph_source import GraphSource
from gfm_pipeline.apps.train.batch_loader import BatchLoader, part_size
from gfm_pipeline.apps.train.checkpoint import CheckpointTensors, ModelCard, TrainingState, copies
from gfm_pipeline.apps.train.compiled import TrainingPass
from gfm_pipeline.apps.train.composition_fit import FitSample, fit_composition
from gfm_pipeline.apps.train.device import CPU, autocast, dtype_of, set_precision
from gfm_pipeline.apps.train.direct_phase import direct_phase, first_end
from gfm_pipeline.apps.train.distributed import SINGLE, Communicator
from gfm_pipeline.apps.train.flat_parameters import clip, flat_parts, flatten, update_ema, with_tail
from gfm_pipeline.apps.train.optimisers.base import build_optimiser
from gfm_pipeline.apps.train.sampler import Sampler
from gfm_pipeline.apps.train.schedule import Progress, build_schedule, learning_rate
from gfm_pipeline.apps.train.validate import BATCH, RunningLoss, Validation, finite, validate
from gfm_pipeline.core.contracts.optimisation.losses import target_losses
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.core.contracts.training import target_weights
from gfm_pipeline.core.errors import GFMError, IntegrityError, NodeError
from gfm_pipeline.models import MultitaskLoss, Potential

RECENT = 3  # number of last validations; the objective of a rung is the best of them


class Diverged(GFMError):
    """The loss, the gradient or the validation errors are not finite."""


@dataclass(frozen=True)
class Splits:
    """Training and validation structures of each dataset, in the order of the model's dataset heads.

    ``samples`` are the training structures for the composition fit of averaged weights; none: no fit.
    """

    train: tuple[GraphSource, ...]
    validation: Mapping[str, GraphTable]
    samples: tuple[FitSample, ...] = ()


class Trainer:
    """Makes steps and validations; the caller decides when to stop.

    Parameters
    ----------
    card
        The model and its scales; kept up to date.
    splits
        The data.
    optimiser
        Learning rate, batch size and so on.
    sampler
        Assignment of graphs to batches.
    tensors, state
        Starting point; None: random weights from the seed of ``card``.
    micro_batch
        Graphs in memory at a time, in training and validation; None: whole batches.
    communicator
        The ranks that train together: all make the same steps, and each computes its share. Only rank 0 has
        ``tensors``.
    device
        Device of the model.
    horizon
        Length of the schedule in graphs of the model's life; None: not known.

    Raises
    ------
    ConfigError
        When the optimiser or the schedule cannot be imported.
    IntegrityError
        When ``tensors`` do not fit the model.
    NodeError
        When another rank is gone.
    """

    def __init__(
        self,
        card: ModelCard,
        splits: Splits,
        optimiser: OptimiserSettings,
        sampler: Sampler,
        tensors: CheckpointTensors | None = None,
        state: TrainingState | None = None,
        micro_batch: int | None = None,
        communicator: Communicator = SINGLE,
        device: torch.device = CPU,
        horizon: int | None = None,
    ) -> None:
        self.card, self.splits, self.settings = card, splits, optimiser
        self.loader = BatchLoader(
            splits.train,
            sampler,
            optimiser.batch_size,
            communicator.rank,
            communicator.size,
            part_size(optimiser, communicator.size, micro_batch),
        )
        self.micro_batch, self.communicator, self.device = micro_batch, communicator, device
        self.stop_requested = False  # some rank was asked to stop before the last step
        self.state = TrainingState() if state is None else state
        self.running_loss = RunningLoss(device, self.state.loss_sum)
        self.precision = set_precision(optimiser.precision, device)
        dtype = dtype_of(self.precision)
        torch.manual_seed(card.seed)
        # built in main memory, for the same random weights on every kind of device
        self.model, self.average = (Potential(card.spec).to(device, dtype) for _ in range(2))
        self.average.load_state_dict(self.model.state_dict())
        self.loss, average_loss = (_loss(card, optimiser).to(device, dtype) for _ in range(2))
        self.direct = direct_phase(self.model, self.average, optimiser)
        trained, averaged = nn.ModuleList([self.model, self.loss]), nn.ModuleList([self.average, average_loss])
        if self.direct is not None:
            trained.append(self.direct.head)
            averaged.append(self.direct.average_head)
        self.weights = flatten(trained, gradients=True)
        self.average_weights = flatten(averaged, gradients=False)
        self.parameters = list(trained.parameters())
        self.training_pass = TrainingPass(self.model)
        self.optimiser = build_optimiser(self.weights, flat_parts(trained), optimiser)
        self.schedule, self.horizon = build_schedule(optimiser), horizon
        if tensors is not None:
            self._restore(tensors)
        if communicator.size > 1:
            self._broadcast_start()
        if self.state.direct_until is None and self.direct is not None:
            self.state = replace(self.state, direct_until=first_end(optimiser, horizon, self.state.graphs))

    @property
    def directly(self) -> bool:
        """Whether forces come from a head of their own now."""
        return self.direct is not None and bool(self.state.direct_until)

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.model.parameters())

    def _restore(self, tensors: CheckpointTensors) -> None:
        try:
            self.model.load_state_dict(tensors.weights)
            self.average.load_state_dict(tensors.ema)
            if not tensors.optimiser:
                return
            self.loss.load_state_dict(tensors.loss if self.direct is None else self.direct.load(tensors.loss))
            self.optimiser.load_state_dict(tensors.optimiser)
            torch.set_rng_state(tensors.rng)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"The checkpoint does not fit its model: {str(error).splitlines()[0]}.") from error

    def _broadcast_start(self) -> None:
        """Copy the starting point of rank 0."""
        for tensor in (self.weights.data, self.average_weights.data, *self.optimiser.tensors.values()):
            self.communicator.broadcast(tensor)
        self.optimiser.numbers = self.communicator.broadcast_object(self.optimiser.numbers)

    def _compare(self) -> None:
        """Raise `NodeError` when the ranks' weights are not bitwise equal: some machine computes wrongly."""
        bits = self.weights.data.view(torch.int32).sum(dtype=torch.int64).reshape(1)
        total = bits.clone()
        self.communicator.all_reduce(total)
        if not torch.equal(total, bits * self.communicator.size):
            raise NodeError(f"The ranks' weights differ after {self.state.graphs} graphs.")

    def tensors(self) -> CheckpointTensors:
        """Return copies in main memory of all tensors needed to continue training."""
        return CheckpointTensors(
            copies(self.model.state_dict()),
            copies(self.average.state_dict()),
            self.optimiser.state_dict(),
            torch.get_rng_state(),
            copies(self.loss.state_dict() | ({} if self.direct is None else self.direct.tensors())),
        )

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        p, s = self.state, self.settings
        return learning_rate(s.learning_rate, p.steps, s.warmup, p.graphs, None) * self.plateau_share

    @property
    def plateau_share(self) -> float:
        """Share of the plateau's learning rate that the schedule and the anneal phase leave, warm-up aside."""
        p = self.state
        return learning_rate(1.0, p.steps, 0, p.graphs, p.anneal) * self.schedule.share(self.progress)

    @property
    def progress(self) -> Progress:
        """Progress of the training, as input of the schedule."""
        return Progress(self.state.graphs, self.horizon, self.state.schedule)

    def step(self, stopping: bool = False) -> None:
        """Make one optimiser step, without waiting for the device; `settle` finds out whether the training diverged.

        Several ranks wait once per step, since each must know whether another was asked to stop.

        Parameters
        ----------
        stopping
            Whether this process was asked to stop. The sum of gradients carries this to the other ranks, so that
            `stop_requested` is then equal on all of them.

        Raises
        ------
        Diverged
            With several ranks, as `settle`. All ranks see the same sums, so they agree.
        NodeError
            When another rank is gone.
        """
        started = time.perf_counter()
        if self.state.direct_until and self.state.graphs >= self.state.direct_until:
            self.state = replace(self.state, direct_until=0, best=None, recent=())  # errors of other forces
        state, settings = self.state, self.settings
        gradient = self.weights.grad
        if gradient is None:
            raise RuntimeError("the flat gradient was replaced")
        gradient.zero_()
        value = self._accumulate()
        if self.communicator.size > 1:
            message, tail = with_tail(gradient)
            tail[0], tail[1] = value, float(stopping)
            self.communicator.all_reduce(message)
            value = tail[0].clone()
            self.stop_requested = bool(tail[1] > 0)
        self.running_loss.add(value, clip(gradient, settings.clip_norm))
        if self.communicator.size > 1:
            self.settle()
        share = self.plateau_share
        self.optimiser.step(self.rate)
        averaged = self.optimiser.averaged
        if averaged is None:
            update_ema(self.average_weights, self.weights.detach(), settings.ema_decay, state.steps, share)
        else:
            self.average_weights.data.copy_(averaged)
        elapsed = time.perf_counter() - started
        self.state = replace(
            state,
            graphs=state.graphs + settings.batch_size,
            steps=state.steps + 1,
            loss_count=state.loss_count + 1,
            task_graphs=state.task_graphs + settings.batch_size,
            task_seconds=state.task_seconds + elapsed,
        )

    def settle(self) -> None:
        """Wait for the steps so far, and take their losses into the state; call it before saving the state.

        Raises
        ------
        Diverged
            When a loss or its gradient was not finite since the last validation.
        """
        started = time.perf_counter()
        total, norms, loss, norm = self.running_loss.read()
        state = self.state
        if not (math.isfinite(total) and math.isfinite(norms)):
            raise Diverged(
                f"The loss is {loss:g} and its gradient {norm:g} at step {state.steps}, after {state.graphs} graphs.",
                "A smaller learning rate usually helps.",
            )
        seconds = state.task_seconds + time.perf_counter() - started
        self.state = replace(state, loss_sum=total, task_seconds=seconds)

    def _accumulate(self) -> Tensor:
        """Add the gradient of this rank's share of the batch's loss to the flat gradient and return that share.

        With a micro-batch, the share is computed in consecutive parts. The loss of each part is divided by the whole
        batch's numbers of labels, so that the gradients of all parts of all ranks add up to that of the whole batch.
        """
        batches, counts = self.loader.local_batches(self.state.graphs)
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        predict = self.direct.predict if self.direct is not None and self.directly else self.training_pass
        for batch in batches:
            batch = batch.to(self.device, self.model.dtype)
            with autocast(self.precision, self.device):
                predicted = predict(batch)
            loss = self.loss(predicted, batch, counts, self.progress.done).total
            # only gradients of parameters are needed: this prunes second derivatives by positions
            loss.backward(inputs=self.parameters)
            value += loss.detach()
        return value

    def close(self) -> None:
        """Stop prefetching."""
        self.loader.close()

    @property
    def train_loss(self) -> float | None:
        """Mean training loss since the last validation, None before the first step after it; see `settle`."""
        self.settle()
        p = self.state
        return p.loss_sum / p.loss_count if p.loss_count else None

    def validate(self, limit: int | None) -> Validation:
        """Validate the EMA weights, fitted to composition, and keep the result on the card and in ``state.best``.

        Raises
        ------
        Diverged
            When an error is not finite.
        NodeError
            When another rank is gone, or has other weights.
        """
        self.settle()
        started = time.perf_counter()
        if self.communicator.size > 1:
            self._compare()
        size = BATCH if self.micro_batch is None else min(BATCH, self.micro_batch)
        if self.splits.samples:
            fit_composition(self.average, self.splits.samples, size, self.communicator, self.device)
        model = self.direct.validated if self.direct is not None and self.directly else self.average
        found = validate(model, self.splits.validation, limit, size, self.communicator, self.device)
        p = self.state
        if not finite(list(found.errors.values())):
            raise Diverged(f"The validation errors are not finite at step {p.steps}, after {p.graphs} graphs.")
        score = found.objective
        best = (p.graphs, score) if p.best is None or score < p.best[1] else p.best
        recent = (*p.recent, (score, found.standard_error))[-RECENT:]
        elapsed = time.perf_counter() - started
        self.card = replace(self.card, graphs=p.graphs, steps=p.steps, objective=score, errors=found.errors)
        self.running_loss.reset()
        self.state = replace(
            p,
            best=best,
            recent=recent,
            schedule=dict(self.schedule.validated(p.schedule, score)),
            loss_sum=0.0,
            loss_count=0,
            task_seconds=p.task_seconds + elapsed,
        )
        return found


def _loss(card: ModelCard, settings: OptimiserSettings) -> MultitaskLoss:
    rules = target_losses(card.datasets, target_weights(card.targets, settings), settings.loss, settings.chosen)
    return MultitaskLoss(card.targets, card.scales(), rules, settings)
