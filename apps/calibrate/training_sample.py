"""Training structures as witnesses of the calibration, beside the validation structures.

A validation split is small and may have a short tail by chance; it also chose weights and checkpoints. Errors on
structures that a model has not seen are in expectation no smaller than errors on its training structures. So a sample
of these bounds the quantiles of errors from below. Their distances to the training data come from the features of all
other groups, in folds: so they are as far as new structures are, and add to the structures that determine the
thresholds of the domain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.domain import FeatureMoments, Floats
from gfm_pipeline.apps.dataset import Columns, Dataset
from gfm_pipeline.core.contracts.data import Split

MOST, MOST_ATOMS = 1000, 100_000  # of a sample: more do not make quantiles noticeably more precise
FOLDS = 20


def training_sample(dataset: Dataset) -> Columns:
    """Return some training structures, drawn at random, without isolated atoms: no split but training has those."""
    total = dataset.statistics.n_structures[Split.TRAIN]
    rng = np.random.default_rng(0)
    drawn = rng.permutation(total)[:MOST]
    found = dataset.columns(Split.TRAIN, np.sort(drawn))
    order = np.argsort(np.argsort(drawn))  # place in the columns of each drawn structure
    order = order[((found.natoms > 1) | found.pbc.any(axis=1))[order]]
    fit = np.cumsum(found.natoms[order]) <= MOST_ATOMS
    fit[:1] = True
    return found.take(np.sort(order[fit]))


def left_out_distances(
    moments: FeatureMoments, numbers: NDArray[Any], groups: NDArray[np.int64], features: Floats
) -> Floats:
    """Return the distance [N] of atoms of the training split to its other groups; infinite for their own elements.

    Parameters
    ----------
    moments
        Moments of all atoms of the training split, these included.
    numbers
        Atomic numbers [N].
    groups
        Trajectory or family of each atom [N]; a whole group is left out at a time.
    features
        Features of the model [N, H].
    """
    found, z = np.full(len(features), np.inf), numbers.astype(np.int64)
    names, which = np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(names)) % FOLDS)[which]
    for number in np.unique(fold):
        own = fold == number
        part = FeatureMoments()
        part.add(z[own], features[own])
        if (domain := moments.without(part).domain()) is not None:
            found[own] = domain.distance(z[own], features[own])
    return found
