"""The multi-task training loss: one term for each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfm_pipeline.core.contracts.targets import DEFAULT, Level, Rank, Target
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.potential import Prediction


@dataclass(frozen=True)
class Loss:
    """The loss to minimise, and by name of a target its mean error in units of its scale, without weights."""

    total: Tensor
    terms: Mapping[str, Tensor]


def label_counts(batch: Batch, targets: Sequence[Target] = DEFAULT) -> dict[str, int]:
    """Return by name of a target how many of its labels are known: what `multitask_loss` divides by."""
    return {t.name: int((~_missing(batch.labels[t.name])).sum()) if t.name in batch.labels else 0 for t in targets}


def multitask_loss(
    prediction: Prediction,
    batch: Batch,
    scales: Mapping[str, Tensor],
    weights: Mapping[str, float],
    targets: Sequence[Target] = DEFAULT,
    counts: Mapping[str, int] | None = None,
) -> Loss:
    """Return the sum over targets of weight times mean error, each in units of the target's scale.

    The error of a scalar is its absolute value, per atom where the target is extensive and of structures; that of a
    vector its length; that of a tensor its Frobenius norm. All are robust to outliers; for energies and forces they are
    those of large atomistic models (e.g. eSCN, UMA). Labels that are NaN are left out of the means.

    Parameters
    ----------
    prediction
        Of ``batch``.
    batch
        With labels, relative to their references.
    scales
        By name of a target, its scale in each dataset [n_datasets], in the dtype of the model.
    weights
        By name of a target.
    targets
        What is learned.
    counts
        Divide by these numbers of labels, those of a larger batch that ``batch`` is a part of: the losses of all
        parts then add up to the loss of the whole. None: the labels of ``batch``. Of a target that is not named, none.

    Raises
    ------
    ModelError
        When the batch has no labels of any target.
    """
    if not any(target.name in batch.labels for target in targets):
        raise ModelError("A loss needs labels, and the batch has none.")
    known = label_counts(batch, targets) if counts is None else counts
    terms: dict[str, Tensor] = {}
    total: Tensor | None = None
    for target in targets:
        name = target.name
        term = _mean_error(target, prediction.values[name], batch, scales[name], known.get(name, 0))
        terms[name] = term
        weighted = weights[name] * term
        total = weighted if total is None else total + weighted
    if total is None:
        raise ModelError("A loss needs at least one target.")
    return Loss(total, terms)


def _mean_error(target: Target, predicted: Tensor, batch: Batch, scales: Tensor, count: int) -> Tensor:
    """Return the sum of the errors of known labels, in units of the scales, over ``count``."""
    label = batch.labels.get(target.name)
    label = torch.full_like(predicted, torch.nan) if label is None else label
    missing = _missing(label)  # not of the prediction: a model that diverged must show
    error = (predicted - label).masked_fill(missing.view(-1, *[1] * (label.ndim - 1)), 0.0)
    size = error.abs() if target.rank is Rank.SCALAR else torch.linalg.vector_norm(error.flatten(1), dim=1)
    weight = 1.0 / scales.index_select(0, batch.dataset)
    if target.per_atom:
        weight = weight / batch.natoms.to(weight.dtype)
    if target.level is Level.ATOM:
        weight = weight.index_select(0, batch.graph)
    return (size * weight).sum() / max(1, count)


def _missing(label: Tensor) -> Tensor:
    """Return which rows of labels are not known [G] or [N]."""
    missing = torch.isnan(label)
    return missing if missing.ndim == 1 else missing.flatten(1).any(1)
