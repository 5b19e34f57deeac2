"""References and statistics of targets besides energy and forces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.batching.graph_table import reference_values
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.ingest.assembly.shuffle import Buckets, LabelsOfSome
from gfm_pipeline.apps.ingest.checks.record_scan import composition
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import TargetStatistics
from gfm_pipeline.core.contracts.targets import OF_MEAN, Level, Rank, Reference, Target

SAMPLE = 200_000  # numbers of a target that its histogram is drawn from: the first ones of each split
_RCOND = 1e-10

Numbers = NDArray[np.float64]


@dataclass
class _MeanFit:
    """The mean of the known labels."""

    total: float = 0.0
    n: int = 0

    def add(self, values: Numbers, some: LabelsOfSome) -> None:  # noqa: ARG002 - as `_ElementFit` has it
        """Add labels [M]; NaN for unknown ones."""
        known = values[~np.isnan(values)]
        self.total += float(known.sum())
        self.n += len(known)

    def solve(self) -> dict[str, float]:
        """Return the references."""
        return {OF_MEAN: self.total / self.n} if self.n else {}


@dataclass
class _ElementFit:
    """A value of each element: the mean of its atoms, or the least squares fit of sums over structures."""

    target: Target
    present: NDArray[np.int64]

    def __post_init__(self) -> None:
        size = len(self.present)
        self.matrix, self.right = np.zeros((size, size)), np.zeros(size)

    def add(self, values: Numbers, some: LabelsOfSome) -> None:
        """Add labels of structures [M] or atoms [K]; NaN for unknown ones."""
        known = ~np.isnan(values)
        if self.target.level is Level.ATOM:
            place = np.searchsorted(self.present, some.numbers[known])
            size = len(self.present)
            self.right += np.bincount(place, weights=values[known], minlength=size)
            self.matrix[np.diag_indices(size)] += np.bincount(place, minlength=size)
            return
        counts = composition(some.numbers, some.natoms, self.present)[known]
        self.matrix += counts.T @ counts
        self.right += counts.T @ values[known]

    def solve(self) -> dict[str, float]:
        """Return the references: the solution of smallest norm if the labels do not determine all."""
        if not self.matrix.any():
            return {}
        found = np.linalg.lstsq(self.matrix, self.right, rcond=_RCOND)[0]
        return {chemical_symbols[z]: float(v) for z, v in zip(self.present.tolist(), found, strict=True)}


def fit_targets(
    targets: Sequence[Target], train: Buckets, present: NDArray[np.int64]
) -> dict[str, tuple[Target, dict[str, float]]]:
    """Return each target and its reference, fitted on the training split in its shuffled order.

    ``present`` are the atomic numbers of all splits.
    """
    fits = {
        t.name: _MeanFit() if t.reference is Reference.MEAN else _ElementFit(t, present)
        for t in targets
        if t.reference is not Reference.NONE
    }
    for some in train.labels() if fits else ():
        for name, fit in fits.items():
            fit.add(some.labels[name].astype(np.float64), some)
    return {t.name: (t, fits[t.name].solve() if t.name in fits else {}) for t in targets}


@dataclass
class _TargetSums:
    known: int = 0
    square: float = 0.0
    absolute: float = 0.0
    sample: list[Numbers] = field(default_factory=list)
    sampled: int = 0


@dataclass
class TargetTotals:
    """Sums of the labels of one target, minus their reference, over a stream of structures."""

    target: Target
    reference: Mapping[str, float]
    sums: dict[Split, _TargetSums] = field(default_factory=dict)

    def add(self, split: Split, columns: Columns) -> None:
        """Add structures of a split."""
        sums, target = self.sums.setdefault(split, _TargetSums()), self.target
        values = columns.labels_of(target.name).astype(np.float64)
        if self.reference:
            values -= reference_values(columns, self.reference, target.name, target.level)
        rows = values.reshape(len(values), -1)
        if target.per_atom:
            rows = rows / columns.natoms[:, None]
        rows = rows[~np.isnan(rows).any(axis=1)]
        sums.known += len(rows)
        sums.square += float((rows**2).sum())
        sums.absolute += float(np.abs(rows).sum())
        if sums.sampled < SAMPLE:
            drawn = rows if target.rank is Rank.SCALAR else np.abs(rows)
            sums.sample.append(drawn.ravel()[: SAMPLE - sums.sampled])
            sums.sampled += len(sums.sample[-1])

    def values(self) -> Numbers:
        """Return a sample: scalars minus references, of vectors and tensors absolute components."""
        return np.concatenate([np.zeros(0), *(part for s in self.sums.values() for part in s.sample)])

    def statistics(self) -> TargetStatistics:
        """Return the facts of the target."""
        width = math.prod(self.target.shape)
        train = self.sums.get(Split.TRAIN, _TargetSums())
        return TargetStatistics(
            target=self.target,
            known={str(split): s.known for split, s in self.sums.items()},
            reference=dict(self.reference),
            scale=math.sqrt(train.square / max(1, width * train.known)),
            null={str(split): s.absolute / max(1, width * s.known) for split, s in self.sums.items()},
        )
