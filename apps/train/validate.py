"""Errors of a model on the validation splits, and the objective that ranks models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.apps.train.device import CPU
from gfm_pipeline.apps.train.direct_phase import DirectPotential
from gfm_pipeline.apps.train.distributed import SINGLE, Communicator
from gfm_pipeline.apps.train.load_balance import Indices, assign, cost
from gfm_pipeline.core.contracts.targets import Level, Target
from gfm_pipeline.core.contracts.training_result import DatasetErrors, TargetError
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.models import Potential

BATCH = 64


def subset(n: int, limit: int | None) -> Indices:
    """Return the indices for validation: all, or a fixed random choice, the same for every model."""
    if limit is None or n <= limit:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(0).permutation(n)[:limit])


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Parameters
    ----------
    objective
        See `objective`.
    errors
        By dataset.
    standard_error
        Standard error of the objective over structures: its expected change with other structures of the same kind.
    """

    objective: float
    errors: dict[str, DatasetErrors]
    standard_error: float


def error_sums(
    model: Potential | DirectPotential, table: GraphTable, index: Indices, batch_size: int, device: torch.device
) -> NDArray[np.float64]:
    """Return the sums over structures ``index`` of products of pairs of columns [2T + 1, 2T + 1], and counts.

    The columns of each structure are the sums of absolute errors of the model's T targets, those of a model that
    learned nothing, and 1, so the last row holds the sums of all columns. An additional last column ([2T + 1, 2T + 2]
    in total) begins with the numbers of known values of each target. Missing labels are left out.
    """
    targets = model.spec.targets
    sums = np.zeros((2 * len(targets) + 1, 2 * len(targets) + 2))
    for start in range(0, len(index), batch_size):
        graphs = index[start : start + batch_size]
        batch = collate([table], np.zeros(len(graphs), dtype=np.int64), graphs).to(device, model.dtype)
        out = model(batch)
        columns = torch.zeros(len(graphs), len(sums), dtype=torch.float64, device=device)
        columns[:, -1] = 1.0
        for k, target in enumerate(targets):
            label = batch.labels.get(target.name)
            if label is None:
                continue
            known = ~torch.isnan(label)
            of_graph = batch.graph if target.level is Level.ATOM else torch.arange(len(graphs), device=device)
            for which, error in enumerate((out.values[target.name] - label, label)):
                size = error.double().abs().masked_fill(~known, 0.0).view(len(label), -1).sum(1)
                if target.per_atom:
                    size = size / batch.natoms.double()
                columns[:, which * len(targets) + k].index_add_(0, of_graph, size)
            sums[k, -1] += int(known.sum())
        sums[:, :-1] += (columns.t() @ columns).cpu().numpy()
    return sums


def mean_errors(targets: Sequence[Target], sums: NDArray[np.float64]) -> DatasetErrors:
    """Return the errors of a dataset from the result of `error_sums`."""
    n = len(targets)
    means = sums[-1, : 2 * n].reshape(2, n) / np.maximum(sums[:n, -1], 1)
    return DatasetErrors.of([TargetError(t, float(means[0, k]), float(means[1, k])) for k, t in enumerate(targets)])


def variance(sums: NDArray[np.float64]) -> float:
    """Return the variance over structures of a dataset's part of the objective, from the result of `error_sums`.

    The objective is a mean of ratios of sums, whose variance is that of its linear part (Cochran, Sampling Techniques,
    1977, section 6.3); errors of energies and forces of one structure are correlated.
    """
    n, structures = (len(sums) - 1) // 2, sums[-1, -2]
    model, nothing = sums[-1, :n], sums[-1, n : 2 * n]
    counted = nothing > 0.0
    if structures < 2 or not counted.any():
        return 0.0
    weight = np.where(counted, 1.0 / np.where(counted, nothing, 1.0), 0.0) / counted.sum()
    ratio = np.where(counted, model / np.where(counted, nothing, 1.0), 0.0)
    linear = np.concatenate([weight, -ratio * weight])
    found = linear @ sums[: 2 * n, : 2 * n] @ linear
    return max(0.0, float(found)) * float(structures / (structures - 1))


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
    model: Potential | DirectPotential,
    tables: Mapping[str, GraphTable],
    limit: int | None,
    batch_size: int = BATCH,
    communicator: Communicator = SINGLE,
    device: torch.device = CPU,
) -> Validation:
    """Return objective, standard error and the errors of each dataset, on at most ``limit`` structures of each.

    Errors are averaged over structures, or atoms, and components; those of extensive values of structures, such as
    energies, are per atom. The errors of a model that learned nothing (references, zero forces) refer to the same
    labels.

    Parameters
    ----------
    model, device
        The model, and its device.
    tables
        By dataset.
    limit
        See `subset`.
    batch_size
        Structures in memory at a time.
    communicator
        The ranks that share the work; they exchange sums in float64, so all have the same result.

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
    spread = sum(variance(part) for part in sums) ** 0.5 / len(errors)
    return Validation(objective(errors), errors, spread)


def finite(errors: Sequence[DatasetErrors]) -> bool:
    """Return whether all errors are finite."""
    found = [(e.energy_mae, e.force_mae, *(other.mae for other in e.others.values())) for e in errors]
    return all(math.isfinite(mae) for maes in found for mae in maes)


class RunningLoss:
    """Sums losses and norms of gradients since the last validation; with one that is not finite, they are not finite.

    They stay on the device: reading a number there would stop its queue.

    Parameters
    ----------
    device
        Device of the numbers.
    start
        Sum of the losses so far.
    """

    def __init__(self, device: torch.device, start: float = 0.0) -> None:
        self._sums = torch.tensor([start, 0.0], dtype=torch.float64, device=device)
        self._last = torch.zeros_like(self._sums)

    @torch.no_grad()
    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Add a step."""
        self._last = torch.stack([loss.double(), norm.double()])
        self._sums += self._last

    def read(self) -> tuple[float, float, float, float]:
        """Return the sums of losses and norms, and both of the last step; this waits for the device."""
        total, norms, loss, norm = torch.cat([self._sums, self._last]).tolist()
        return total, norms, loss, norm

    def reset(self) -> None:
        """Begin again."""
        self._sums.zero_()
