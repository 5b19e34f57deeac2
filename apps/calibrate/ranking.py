"""Quality of the ranking by an uncertainty: whether it is large for large errors, or for unfamiliar structures.

Every function takes one-dimensional float arrays; a larger value of ``uncertainty`` marks a less certain entry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from gfm_pipeline.apps.calibrate.metrics import Array

WORST_SHARE = 0.1  # entries with the largest errors that `worst` marks
Bools = NDArray[np.bool_]


def worst(error: Array, share: float = WORST_SHARE) -> Bools:
    """Return which entries [n] have the largest absolute errors: ``share`` of all, or more for equal errors."""
    size = np.abs(error)
    return size > np.quantile(size, 1.0 - share) if len(size) else np.zeros(0, dtype=bool)


def auroc(uncertainty: Array, positive: Bools) -> float:
    """Return the probability that a ``positive`` entry is less certain than another; equal values count half.

    This is the area under the receiver operating characteristic; 0.5 is chance, NaN when one side is empty.
    """
    n, m = int(np.count_nonzero(positive)), int(np.count_nonzero(~positive))
    if not n or not m:
        return float("nan")
    ranks = rankdata(uncertainty)[positive]
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m))


def auprc(uncertainty: Array, positive: Bools) -> float:
    """Return the average precision: the area under precision over recall, as a sum of steps; chance is the share.

    Entries of equal value are found together. NaN without ``positive`` entries.
    """
    if not positive.any():
        return float("nan")
    order = np.argsort(-uncertainty, kind="stable")
    value, hit = uncertainty[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(value)), len(value) - 1)  # of each value
    found = np.cumsum(hit)[last]
    return float(np.sum(found / (last + 1) * np.diff(found, prepend=0)) / found[-1])


def ause(error: Array, uncertainty: Array, steps: int = 100) -> float:
    """Return the area between the sparsification curves of ``uncertainty`` and of the errors themselves; 0 is best.

    The curve is the mean absolute error without the least certain share of the entries, divided by the mean absolute
    error of all (Ilg et al., ECCV (2018)). The share runs over ``steps`` equal steps.
    """
    size = np.abs(error)
    if not len(size) or not size.any():
        return 0.0
    n_left = np.maximum(1, np.round(len(size) * (1.0 - np.arange(steps) / steps)).astype(np.int64))
    curves = [np.cumsum(size[np.argsort(by, kind="stable")])[n_left - 1] / n_left for by in (uncertainty, size)]
    return float(np.mean(curves[0] - curves[1]) / np.mean(size))
