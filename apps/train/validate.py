"""Errors of a model on the validation splits, and the one number that ranks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.apps.train.device import CPU
from gfm_pipeline.apps.train.distributed import SINGLE, Communicator
from gfm_pipeline.apps.train.load_balance import Indices, assign, cost
from gfm_pipeline.core.contracts.training import DatasetErrors
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
    """Return sums and counts [2, 4] of absolute errors on the structures ``index`` of one dataset.

    The four are energy, force, and both of a model that learned nothing. Missing labels are left out.

    Raises
    ------
    DataError
        When the split has no labels.
    """
    sums, counts = np.zeros(4), np.zeros(4)
    for start in range(0, len(index), batch_size):
        graphs = index[start : start + batch_size]
        batch = collate([table], np.zeros(len(graphs), dtype=np.int64), graphs).to(device)
        out = model(batch)
        ones = torch.ones((), device=device)
        for k, (predicted, label, size) in enumerate(
            (
                (out.energy, batch.labels["energy"], batch.natoms.double()),
                (out.forces, batch.labels["forces"], ones),
            )
        ):
            known = ~torch.isnan(label)
            error = ((predicted - label).double().abs() / size)[known]
            null = (label.double().abs() / size)[known]
            for place, values in ((k, error), (k + 2, null)):
                sums[place] += float(values.sum())
                counts[place] += values.numel()
    return np.stack([sums, counts])


def objective(errors: Mapping[str, DatasetErrors]) -> float:
    """Return the mean over datasets of the mean of (energy MAE / null, force MAE / null).

    A quantity whose null error is zero (no labels, or nothing to learn) does not count.

    Raises
    ------
    DataError
        When there is nothing to learn in a dataset.
    """
    values = []
    for name, e in errors.items():
        pairs = ((e.energy_mae, e.null_energy_mae), (e.force_mae, e.null_force_mae))
        ratios = [mae / null for mae, null in pairs if null > 0]
        if not ratios:
            raise DataError(f"Dataset {name} has no labels to validate on.")
        values.append(sum(ratios) / len(ratios))
    return sum(values) / len(values)


def validate(
    model: Potential,
    tables: Mapping[str, GraphTable],
    limit: int | None,
    micro_batch: int | None = None,
    communicator: Communicator = SINGLE,
    device: torch.device = CPU,
) -> tuple[float, dict[str, DatasetErrors]]:
    """Return the objective and the errors of each dataset, on at most ``limit`` structures of each.

    Energies are absolute errors per atom averaged over structures; forces are averaged over components. Both
    null errors (reference energies, zero forces) are of the same structures.

    Parameters
    ----------
    model, device
        The model, and where it is.
    tables
        By dataset.
    limit
        See `subset`.
    micro_batch
        Bounds the structures in memory at a time.
    communicator
        Who shares the work; sums are exchanged in float64, so all of them have the same result.

    Raises
    ------
    DataError
        When a dataset has no labels to validate on.
    """
    size = BATCH if micro_batch is None else min(BATCH, micro_batch)
    found = []
    for table in tables.values():
        index = subset(len(table), limit)
        if communicator.size > 1:
            index = index[assign(cost(table.natoms[index], table.nedges[index]), communicator.rank, communicator.size)]
        found.append(error_sums(model, table, index, size, device))
    sums = np.stack(found)
    if communicator.size > 1:
        total = torch.from_numpy(sums).to(device)
        communicator.all_reduce(total)
        sums = total.cpu().numpy()
    errors = {}
    for name, (total_error, count) in zip(tables, sums, strict=True):
        energy, force, null_energy, null_force = (float(x) for x in total_error / np.maximum(count, 1))
        errors[name] = DatasetErrors(energy, force, null_energy, null_force)
    return objective(errors), errors


def finite(errors: Sequence[DatasetErrors]) -> bool:
    """Return whether all errors are finite."""
    return bool(np.isfinite([[e.energy_mae, e.force_mae] for e in errors]).all())
