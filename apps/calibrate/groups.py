"""Coverage of groups of the test split, by element and by size, with an error for dependent entries."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import TargetPredictions
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.contracts.evaluation import GroupCoverage

SIZES = (1, 10, 30, 100, 300, 1000)  # atoms: bounds of the classes of size
_RESAMPLES = 200
Bools = NDArray[np.bool_]


def size_class(natoms: int) -> str:
    """Return the class of size of a structure, in words."""
    lower = max(size for size in SIZES if size <= natoms)
    later = [size for size in SIZES if size > natoms]
    return f"{lower} to {later[0] - 1} atoms" if later else f"{lower} atoms and more"


def bootstrap_error(inside: Array, counts: Array, seed: int = 0) -> float:
    """Return the standard error of a coverage from clusters with ``inside`` of ``counts`` entries [C] covered.

    It is the standard deviation over samples of whole clusters with replacement, and at least 1 / (C + 2), the expected
    share on the other side when all or no clusters are inside. For one cluster it is 0.5.
    """
    clusters = len(counts)
    if clusters < 2:
        return 0.5
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(clusters, size=clusters) for _ in range(_RESAMPLES))
    shares = [inside[which].sum() / counts[which].sum() for which in drawn]
    return max(float(np.std(shares)), 1.0 / (clusters + 2.0))


def group_coverages(error: Array, halfwidth: Array, test: TargetPredictions) -> tuple[GroupCoverage, ...]:
    """Return the coverage by element and by class of size; nothing for a single group."""
    inside = np.abs(error) <= halfwidth
    found = []
    for by in (_elements(test), _sizes(test)):
        named = list(by)
        if len(named) > 1:
            found += [_coverage(*one, inside, test.cluster) for one in named]
    return tuple(found)


def _elements(test: TargetPredictions) -> Iterator[tuple[str, str, Bools]]:
    if test.element is not None:
        for number in np.unique(test.element):
            yield "element", chemical_symbols[number], test.element == number


def _sizes(test: TargetPredictions) -> Iterator[tuple[str, str, Bools]]:
    if test.size is not None:
        for low, high in zip(SIZES, (*SIZES[1:], math.inf), strict=True):
            own = (test.size >= low) & (test.size < high)
            if own.any():
                yield "size", size_class(low), own


def _coverage(by: str, group: str, own: Bools, inside: Bools, cluster: NDArray[np.int64]) -> GroupCoverage:
    names, index = np.unique(cluster[own], return_inverse=True)
    counts = np.bincount(index, minlength=len(names)).astype(np.float64)
    covered = np.bincount(index, weights=inside[own], minlength=len(names)).astype(np.float64)
    share = float(covered.sum() / counts.sum())
    return GroupCoverage(by, group, int(counts.sum()), len(names), share, bootstrap_error(covered, counts))
