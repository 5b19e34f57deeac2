"""The multi-task training loss: one term per target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gfm_pipeline.core.contracts.extensions import imported
from gfm_pipeline.core.contracts.optimisation.losses import LOSSES, TargetLoss, target_losses
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings, Weighting
from gfm_pipeline.core.contracts.targets import DEFAULT, ENERGY, Level, Target
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.loss_functions import crps_gain
from gfm_pipeline.models.potential import Prediction
from gfm_pipeline.models.readout import DEVIATIONS

LossFunction = Callable[[Tensor, Tensor | None, float], Tensor]


@dataclass(frozen=True)
class Loss:
    """The loss to minimise, and the mean error of each target by name, in units of its scale, without weights."""

    total: Tensor
    terms: Mapping[str, Tensor]


def label_counts(batch: Batch, targets: Sequence[Target] = DEFAULT) -> dict[str, int]:
    """Return the number of known labels by target, the divisor of `multitask_loss`."""
    return {t.name: int((~_missing(batch.labels[t.name])).sum()) if t.name in batch.labels else 0 for t in targets}


class MultitaskLoss(nn.Module):
    """The sum over targets of weight times mean loss; errors are in units of the target's scale.

    Errors of extensive values of structures are per atom. The means leave out NaN labels and weight each label by its
    record's weight. Losses that need the scale of errors learn it, one number per target and dataset. With learned
    weights, a loss ``L`` of weight ``w`` becomes ``w (L exp(-s) + s)``, where ``s`` is also learned. The influence of a
    target then depends on its weight only, not on the size of its errors.

    Parameters
    ----------
    targets
        What is learned.
    scales
        By name of a target, its scale in each dataset.
    rules
        By name of a target, its losses and weights in each dataset.
    settings
        ``huber_delta`` and ``weighting``.

    Raises
    ------
    ConfigError
        When no loss has a given name, or it cannot be imported.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        scales: Mapping[str, Sequence[float]],
        rules: Mapping[str, TargetLoss],
        settings: OptimiserSettings,
    ) -> None:
        super().__init__()
        self.targets, self.rules, self.settings = tuple(targets), dict(rules), settings
        self.functions: dict[str, LossFunction] = {}
        self.log_scale, self.log_loss = nn.ParameterDict(), nn.ParameterDict()
        for target in targets:
            name, names = target.name, set(rules[target.name].losses)
            self.register_buffer(f"scale_{name}", torch.tensor(scales[name]), persistent=False)
            for loss in names:
                self.functions[loss] = imported(f"Loss {loss!r}", LOSSES.describe(loss).function)
            if any(LOSSES.describe(loss).scaled for loss in names):
                self.log_scale[name] = nn.Parameter(torch.zeros(len(scales[name])))
            if settings.weighting is Weighting.LEARNED:
                self.log_loss[name] = nn.Parameter(torch.zeros(len(scales[name])))

    def forward(
        self, prediction: Prediction, batch: Batch, counts: Mapping[str, int] | None = None, done: float = 0.0
    ) -> Loss:
        """Return the loss of a batch.

        Parameters
        ----------
        prediction
            Of ``batch``.
        batch
            With labels, relative to their references.
        counts
            Divide by these numbers of labels of a larger batch that contains ``batch``; the losses of all parts then
            add up to the loss of the whole. None: the labels of ``batch``. A target without an entry counts 0.
        done
            Completed share of the training, for weights that change.

        Raises
        ------
        ModelError
            When the batch has no labels of any target.
        """
        if not any(target.name in batch.labels for target in self.targets):
            raise ModelError("A loss needs labels, and the batch has none.")
        known = label_counts(batch, self.targets) if counts is None else counts
        terms: dict[str, Tensor] = {}
        total: Tensor | None = None
        for target in self.targets:
            rows, missing = self._rows(target, prediction.values[target.name], batch)
            count = max(1, known.get(target.name, 0))
            terms[target.name] = rows.sum() / count
            weighted = self._weighted(target, rows, missing, batch, done)
            weighted = terms[target.name] * weighted if isinstance(weighted, float) else weighted.sum() / count
            if target == ENERGY and DEVIATIONS in prediction.values:
                weighted = weighted + self._shallow(prediction, missing, batch).sum() / count
            total = weighted if total is None else total + weighted
        if total is None:
            raise ModelError("A loss needs at least one target.")
        return Loss(total, terms)

    def _rows(self, target: Target, predicted: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of each structure or atom (0 for a missing label), and which labels are present."""
        label = batch.labels.get(target.name)
        label = torch.full_like(predicted, torch.nan) if label is None else label
        missing = _missing(label)  # NaN of the label, not of the prediction: a diverged model must show
        unit = 1.0 / self.get_buffer(f"scale_{target.name}").index_select(0, batch.dataset)
        if target.per_atom:
            unit = unit / batch.natoms.to(unit.dtype)
        unit, dataset = self._of_rows(target, unit, batch), self._of_rows(target, batch.dataset, batch)
        error = (predicted - label).masked_fill(missing.view(-1, *[1] * (label.ndim - 1)), 0.0).reshape(len(label), -1)
        scale = None
        if target.name in self.log_scale:
            scale = self.log_scale[target.name].index_select(0, dataset).unsqueeze(1)
        losses = self.rules[target.name].losses
        rows = self._losses(losses[0], error, unit, scale)
        for name in sorted({*losses} - {losses[0]}):
            here = _sent([loss == name for loss in losses], dataset.device, torch.bool).index_select(0, dataset)
            rows = torch.where(here, self._losses(name, error, unit, scale), rows)
        rows = rows.masked_fill(missing, 0.0)  # whatever the value of a loss at zero error
        weight = batch.weights.get(target.name)
        return rows if weight is None else rows * self._of_rows(target, weight, batch), missing

    def _shallow(self, prediction: Prediction, missing: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a shallow ensemble for each structure; it changes the deviations only."""
        if ENERGY.name not in batch.labels:
            return torch.zeros_like(prediction.energy)
        scale = self.get_buffer(f"scale_{ENERGY.name}").index_select(0, batch.dataset)
        unit = 1.0 / (scale * batch.natoms.to(scale.dtype))
        error = (prediction.energy.detach() - batch.labels[ENERGY.name]).masked_fill(missing, 0.0) * unit
        gain = crps_gain(error, prediction.values[DEVIATIONS] * unit.unsqueeze(1)).masked_fill(missing, 0.0)
        weight = batch.weights.get(ENERGY.name)
        return gain if weight is None else gain * weight

    def _losses(self, name: str, error: Tensor, unit: Tensor, scale: Tensor | None) -> Tensor:
        function, delta = self.functions[name], self.settings.huber_delta
        if LOSSES.describe(name).homogeneous:
            return function(error, scale, delta) * unit
        return function(error * unit.unsqueeze(1), scale, delta)

    def _weighted(self, target: Target, rows: Tensor, missing: Tensor, batch: Batch, done: float) -> Tensor | float:
        """Return the rows times their weights, or times the common weight of all rows."""
        weights = self.rules[target.name].weights_at(done)
        learned = target.name in self.log_loss
        if not learned and len(set(weights)) == 1:
            return weights[0]
        dataset = self._of_rows(target, batch.dataset, batch)
        if learned:
            size = self.log_loss[target.name].index_select(0, dataset)
            rows = rows * torch.exp(-size) + size.masked_fill(missing, 0.0)
        return rows * _sent(weights, rows.device, rows.dtype).index_select(0, dataset)

    @staticmethod
    def _of_rows(target: Target, values: Tensor, batch: Batch) -> Tensor:
        """Return values of structures for each row of the target; atoms take those of their structures."""
        return values.index_select(0, batch.graph) if target.level is Level.ATOM else values


def multitask_loss(
    prediction: Prediction,
    batch: Batch,
    scales: Mapping[str, Tensor],
    weights: Mapping[str, float],
    targets: Sequence[Target] = DEFAULT,
    counts: Mapping[str, int] | None = None,
) -> Loss:
    """Return the `MultitaskLoss` of a batch with fixed weights and the default loss, the length of the error.

    Parameters
    ----------
    prediction, batch, counts
        See `MultitaskLoss.forward`.
    scales
        By name of a target, its scale in each dataset [n_datasets], in the dtype of the model.
    weights
        By name of a target.
    targets
        What is learned.

    Raises
    ------
    ModelError
        When the batch has no labels of any target.
    """
    if not any(target.name in batch.labels for target in targets):
        raise ModelError("A loss needs labels, and the batch has none.")
    settings = OptimiserSettings()
    plain = {target.name: scales[target.name].tolist() for target in targets}
    datasets = [str(k) for k in range(len(next(iter(plain.values()))))]
    rules = target_losses(datasets, {t.name: weights[t.name] for t in targets}, settings.loss, {})
    loss = MultitaskLoss(targets, plain, rules, settings).to(batch.pos)
    found: Loss = loss(prediction, batch, counts)
    return found


def _sent(values: Sequence[float], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return numbers on a device, without waiting for the copy."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def _missing(label: Tensor) -> Tensor:
    """Return which rows of labels are missing [G] or [N]."""
    missing = torch.isnan(label)
    return missing if missing.ndim == 1 else missing.flatten(1).any(1)
