"""Errors of a model on the validation splits, and the one number that ranks it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.apps.train.device import CPU
from gfm_pipeline.apps.train.distributed import SINGLE, Communicator
from gfm_pipeline.apps.train.load_balance import Indices, assign, cost
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.core.contracts.training_result import DatasetErrors, TargetError
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.models import Potential

BATCH = 64


def subset(n: int, limit: int | None) -> Indices:
    """Return the indices that validation uses: all, or a fixed random choice that is the same for every model."""
    if limit is None or n <= limit:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(0).permutation(n)[:limit])


def error_sums(
    model: Potential, table: GraphTable, index: Indices, batch_size: int, device: torch.device
) -> NDArray[np.float64]:
    """Return sums and counts [2, 2, T] of absolute errors of the model's targets on the structures ``index``.

    The second axis is the model's error, and that of one that learned nothing. Missing labels are left out.
    """
    targets = model.spec.targets
    sums = np.zeros((2, 2, len(targets)))
    for start in range(0, len(index), batch_size):
        graphs = index[start : start + batch_size]
        batch = collate([table], np.zeros(len(graphs), dtype=np.int64), graphs).to(device)
        out = model(batch)
        for k, target in enumerate(targets):
            label = batch.labels.get(target.name)
            if label is None:
                continue
            known = ~torch.isnan(label)
            for which, error in enumerate((out.values[target.name] - label, label)):
                size = error.double().abs()
                if target.per_atom:
                    size = size / batch.natoms.double().view(-1, *[1] * (size.ndim - 1))
                values = size[known]
                sums[0, which, k] += float(values.sum())
                sums[1, which, k] += values.numel()
    return sums


def mean_errors(targets: Sequence[Target], sums: NDArray[np.float64]) -> DatasetErrors:
    """Return the errors of a dataset from what `error_sums` counted."""
    means = sums[0] / np.maximum(sums[1], 1)
    return DatasetErrors.of([TargetError(t, float(means[0, k]), float(means[1, k])) for k, t in enumerate(targets)])


def objective(errors: Mapping[str, DatasetErrors]) -> float:
    """Return the mean over datasets of the mean over targets of MAE / null.

    A target whose null error is zero (no labels, or nothing to learn) does not count.

    Raises
    ------
    DataError
        When there is nothing to learn in a dataset.
    """
    values = []
    for name, found in errors.items():
        ratios = [error.ratio for error in found.by_target() if error.ratio is not None]
        if not ratios:
            raise DataError(f"Dataset {name} has no labels to validate on.")
        values.append(sum(ratios) / len(ratios))
    return sum(values) / len(values)


def validate(
    model: Potential,
    tables: Mapping[str, GraphTable],
    limit: int | None,
    batch_size: int = BATCH,
    communicator: Communicator = SINGLE,
    device: torch.device = CPU,
) -> tuple[float, dict[str, DatasetErrors]]:
    """Return the objective and the errors of each dataset, on at most ``limit`` structures of each.

    Errors are averaged over structures, or atoms, and components; those of extensive values of structures, such as
    energies, are per atom. The errors of a model that learned nothing (references, zero forces) are of the same labels.

    Parameters
    ----------
    model, device
        The model, and where it is.
    tables
        By dataset.
    limit
        See `subset`.
    batch_size
        Structures in memory at a time.
    communicator
        Who shares the work; sums are exchanged in float64, so all of them have the same result.

    Raises
    ------
    DataError
        When a dataset has no labels to validate on.
    """
    found = []
    for table in tables.values():
        index = subset(len(table), limit)
        if communicator.size > 1:
            index = index[assign(cost(table.natoms[index], table.nedges[index]), communicator.rank, communicator.size)]
        found.append(error_sums(model, table, index, batch_size, device))
    sums = np.stack(found)
    if communicator.size > 1:
        total = torch.from_numpy(sums).to(device)
        communicator.all_reduce(total)
        sums = total.cpu().numpy()
    errors = {name: mean_errors(model.spec.targets, part) for name, part in zip(tables, sums, strict=True)}
    return objective(errors), errors


def finite(errors: Sequence[DatasetErrors]) -> bool:
    """Return whether all errors are finite."""
    found = [(e.energy_mae, e.force_mae, *(other.mae for other in e.others.values())) for e in errors]
    return all(math.isfinite(mae) for maes in found for mae in maes)
