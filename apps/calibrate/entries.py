"""Entries of a calibration: the spread, size, distance, length and element that set the width of an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.metrics import Array


@dataclass(frozen=True)
class Entries:
    """The n entries of one target: one number per structure or atom, or the components of vectors and tensors.

    Attributes
    ----------
    spread
        Raw spread [n], in the unit of the target's errors.
    mean
        Mean of the members [n], less its reference.
    size
        Atoms of the structure [n]; None: not known.
    distance
        Distance to the training data [n], of the atom or of the structure, in units of the threshold of the domain;
        None: not known.
    element
        Atomic number [n] of entries of atoms; None for structures, or when not known.
    vector
        Whether each three entries are the components of one vector.
    """

    spread: Array
    mean: Array
    size: Array | None = None
    distance: Array | None = None
    element: NDArray[np.int64] | None = None
    vector: bool = False

    @property
    def length(self) -> Array | None:
        """Length of the mean vector of each component [n]; None for other entries."""
        if not self.vector:
            return None
        return np.repeat(np.linalg.norm(self.mean.reshape(-1, 3), axis=1), 3)

    def take(self, chosen: NDArray[np.int64]) -> Entries:
        """Return some vectors, or some other entries, by index."""
        which = (3 * chosen[:, None] + np.arange(3)).reshape(-1) if self.vector else chosen

        def of(values: Array | None) -> Array | None:
            return None if values is None else values[which]

        element = None if self.element is None else self.element[which]
        return Entries(
            self.spread[which], self.mean[which], of(self.size), of(self.distance), element, vector=self.vector
        )

    def __len__(self) -> int:
        return len(self.spread)


def farthest(distance: Array, natoms: NDArray[np.int64]) -> Array:
    """Return the distance of the farthest atom of each structure [G], from those of all atoms [N]."""
    starts = np.cumsum(natoms) - natoms
    return np.maximum.reduceat(distance, starts) if len(natoms) else np.zeros(0)


def averaged(distance: Array, natoms: NDArray[np.int64]) -> Array:
    """Return the mean distance of the atoms of each structure [G], from those of all atoms [N]."""
    starts = np.cumsum(natoms) - natoms
    return np.asarray(np.add.reduceat(distance, starts) / natoms) if len(natoms) else np.zeros(0)
