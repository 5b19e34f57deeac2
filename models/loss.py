"""The multi-task training loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.potential import Prediction


@dataclass(frozen=True)
class Loss:
    """The loss to minimise and its two parts, all in units of the force RMS (energies: times 1 Angstrom)."""

    total: Tensor
    energy: Tensor
    force: Tensor


def label_counts(batch: Batch) -> tuple[int, int]:
    """Return the numbers of energies and of force vectors that are known: what `multitask_loss` divides by.

    Raises
    ------
    ModelError
        When the batch has no labels.
    """
    if not {"energy", "forces"} <= batch.labels.keys():
        raise ModelError("A loss needs labels, and the batch has none.")
    energies, forces = batch.labels["energy"], batch.labels["forces"]
    return int((~torch.isnan(energies)).sum()), int((~torch.isnan(forces).any(1)).sum())


def multitask_loss(
    prediction: Prediction,
    batch: Batch,
    force_rms: Tensor,
    force_weight: float,
    counts: tuple[int, int] | None = None,
) -> Loss:
    """Return mean absolute per-atom energy error + ``force_weight`` * mean length of the force error.

    The L1 energy and L2-norm force losses are those of large atomistic models (e.g. eSCN, UMA); both are robust to
    outliers. Labels that are NaN are left out of the means.

    Parameters
    ----------
    prediction
        Of ``batch``.
    batch
        With labels; energies relative to the references.
    force_rms
        Scale of each dataset [n_datasets], eV/Angstrom, in the dtype of the model.
    force_weight
        Weight of the force part.
    counts
        Divide by these numbers of labels, those of a larger batch that ``batch`` is a part of: the losses of all
        parts then add up to the loss of the whole. None: the labels of ``batch``.

    Raises
    ------
    ModelError
        When the batch has no labels.
    """
    if not {"energy", "forces"} <= batch.labels.keys():
        raise ModelError("A loss needs labels, and the batch has none.")
    scale = 1.0 / force_rms.index_select(0, batch.dataset)
    weight = scale / batch.natoms.to(scale.dtype)
    energy_error, energy_count = _masked(prediction.energy, batch.labels["energy"])
    force_error, force_count = _masked(prediction.forces, batch.labels["forces"])
    if counts is not None:
        energy_count, force_count = (torch.tensor(max(1, n)) for n in counts)
    energy = (energy_error.abs() * weight).sum() / energy_count
    length = torch.linalg.vector_norm(force_error, dim=1)
    force = (length * scale.index_select(0, batch.graph)).sum() / force_count
    return Loss(energy + force_weight * force, energy, force)


def _masked(predicted: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the error with rows of missing labels set to zero, and the number of rows that count (at least 1)."""
    missing = torch.isnan(label)  # not of the prediction: a model that diverged must show
    if missing.ndim == 2:
        missing = missing.any(1, keepdim=True)
    return (predicted - label).masked_fill(missing, 0.0), (~missing).sum().clamp(min=1)
