"""Closed-form fit of the part of the error that is linear in composition, from training structures.

A short training learns forces long before it learns the level of a dataset's energies. Most of its energy error is then
one number per element, which is noise of the last optimiser steps and unrelated to the quality of the model. Every
evaluation of averaged weights first fits these numbers to the errors of some training structures and makes them part of
the model (`gfm_pipeline.models.composition_shift`). The fit never uses validation and test structures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.apps.dataset.batching.graph_source import GraphSource
from gfm_pipeline.apps.train.device import CPU
from gfm_pipeline.apps.train.distributed import SINGLE, Communicator
from gfm_pipeline.apps.train.load_balance import Indices
from gfm_pipeline.models import Potential
from gfm_pipeline.models.layers import MAX_Z

FEWEST, MOST, PER_ELEMENT = 256, 1024, 32  # structures per fit
RIDGE = 1e-6  # times the number of structures: directions without variation of composition stay at zero
ROUNDS = 6  # rounds of reweighting, which bounds the influence of structures with wrong labels
BOUND = 1.5  # times the mean of absolute errors, bounded as in the round before: larger ones count with this size only

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FitSample:
    """One rank's share of a dataset's training structures for fits: a table, and indices in it."""

    table: GraphTable
    graphs: Indices


def sample_size(structures: int, elements: int) -> int:
    """Return the number of a dataset's training structures in a fit."""
    return min(structures, MOST, max(FEWEST, PER_ELEMENT * elements))


def fit_sample(source: GraphSource, size: int, communicator: Communicator = SINGLE) -> FitSample:
    """Return this rank's share of the first ``size`` training structures, which ingest has shuffled.

    Raises
    ------
    GFMError
        When they cannot be read.
    """
    own = np.arange(communicator.rank, size, communicator.size)
    table, graphs = source.table(own if len(own) else np.zeros(1, dtype=np.int64))
    return FitSample(table, graphs[: len(own)])


def fit_composition(
    model: Potential,
    samples: Sequence[FitSample],
    batch_size: int,
    communicator: Communicator = SINGLE,
    device: torch.device = CPU,
) -> None:
    """Set the shifts of ``model`` so that errors of its training structures do not depend on their composition.

    Parameters
    ----------
    model, device
        The model, whose shifts are replaced, and its device.
    samples
        This rank's share of each dataset, in the order of the model's heads. Datasets without labels get no shift.
    batch_size
        Structures in memory at a time.
    communicator
        The ranks that share the work. They exchange sums in float64 and rank 0 solves, so all have bitwise equal
        shifts.

    Raises
    ------
    NodeError
        When another rank is gone.
    """
    if not model.shifted:
        return
    elements = np.array(model.spec.elements or range(1, MAX_Z + 1), dtype=np.int64)
    for target in model.shifted:
        model.shift(target).values.zero_()
    parts = [_residuals(model, sample, elements, batch_size, device) for sample in samples]
    for k, target in enumerate(model.shifted):
        solved = _solve([(x, errors[:, k]) for x, errors in parts], communicator, device)
        values = model.shift(target).values
        values[:, torch.from_numpy(elements - 1).to(values.device)] = torch.from_numpy(solved).to(values)


def _residuals(
    model: Potential, sample: FitSample, elements: Indices, batch_size: int, device: torch.device
) -> tuple[Array, Array]:
    """Return the compositions [G, Z] of structures, as fractions, and labels minus predictions per atom.

    The latter [G, K] are for the model's shifted targets, NaN for missing labels.
    """
    compositions, errors = [np.zeros((0, len(elements)))], [np.zeros((0, len(model.shifted)))]
    for graphs in _batches(sample.graphs, batch_size):
        batch = collate([sample.table], np.zeros(len(graphs), dtype=np.int64), graphs).to(device, model.dtype)
        values, natoms = model.head_values(batch), batch.natoms.double()
        missing = torch.full_like(natoms, torch.nan)
        found = [(batch.labels.get(t.name, missing).double() - values[t.name].double()) / natoms for t in model.shifted]
        errors.append(torch.stack(found, 1).cpu().numpy())
        counts = np.zeros((len(graphs), len(elements)))
        np.add.at(counts, (batch.graph.cpu().numpy(), np.searchsorted(elements, batch.z.cpu().numpy())), 1.0)
        compositions.append(counts / batch.natoms.cpu().numpy()[:, None])
    return np.concatenate(compositions), np.concatenate(errors)


def _batches(graphs: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(graphs), size):
        yield graphs[start : start + size]


def _solve(parts: Sequence[tuple[Array, Array]], communicator: Communicator, device: torch.device) -> Array:
    """Return the least-squares shifts [D, Z] with a bounded influence of large errors (Huber 1964)."""
    known = [(x[~np.isnan(y)], y[~np.isnan(y)]) for x, y in parts]
    shifts = np.zeros((len(parts), known[0][0].shape[1]))
    bound = np.full(len(parts), np.inf)
    for _ in range(ROUNDS):
        sums = np.stack([_sums(x, y - x @ c, limit) for (x, y), c, limit in zip(known, shifts, bound, strict=True)])
        total = torch.from_numpy(sums).to(device)
        communicator.all_reduce(total)
        steps = torch.from_numpy(np.stack([_step(one) for one in total.cpu().numpy()])).to(device)
        communicator.broadcast(steps)
        shifts += steps[:, :-1].cpu().numpy()
        bound = steps[:, -1].cpu().numpy()
    return shifts


def _sums(x: Array, error: Array, limit: float) -> Array:
    """Return the normal equations [Z + 1, Z + 1], the number of structures, and their bounded errors."""
    size = np.abs(error)
    weighted = x * np.minimum(1.0, limit / np.maximum(size, 1e-300))[:, None]
    found = np.zeros((x.shape[1] + 1, x.shape[1] + 1))
    found[:-1, :-1], found[:-1, -1] = weighted.T @ x, weighted.T @ error
    found[-1, -1], found[-1, 0] = len(x), np.minimum(size, limit).sum()
    return found


def _step(sums: Array) -> Array:
    """Return the change of the shifts [Z], followed by the bound of the next round."""
    n, elements = sums[-1, -1], len(sums) - 1
    if n == 0:
        return np.zeros(elements + 1)
    change = np.linalg.solve(sums[:-1, :-1] + RIDGE * n * np.eye(elements), sums[:-1, -1])
    return np.append(change, BOUND * sums[-1, 0] / n)
