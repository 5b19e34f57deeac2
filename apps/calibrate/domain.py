"""Distance of an atom from the training data, in the features of the model.

The Mahalanobis distance with a shrunk covariance compares the scalar features of an atom after the last message passing
layer with those of all atoms of its element in the training split, through stored means and covariances (after Lee et
al., NeurIPS (2018), and for interatomic potentials Musielewicz et al., Chem. Mater. 36 (2024)). A structure is as far
as its farthest atom, or as the mean of its atoms, each in units of its own threshold, whichever is more: a broken bond
moves one atom far, a high temperature moves all of them a little. The thresholds are a conformal quantile of the
validation structures and of training structures, whose distances are to the rest of the training data: a structure like
those of the dataset is farther with a stated probability. The spread of members may be small when all members err. The
distance does not measure errors, but it grows when the features leave the training data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfm_pipeline.apps.calibrate.entries import averaged, farthest
from gfm_pipeline.core.contracts.evaluation import DomainCalibration
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.models import Potential

Floats = NDArray[np.float64]
FALSE_ALARMS = 0.01  # share of structures like those of the dataset that are farther than the threshold
_TINY = 1e-12  # smallest distance whose logarithm is taken
_RIDGE = 1e-3  # of the mean variance: limits the influence of directions without variance


@dataclass(frozen=True)
class Domain:
    """Statistics of the features of a training split's atoms in one model.

    Attributes
    ----------
    elements
        Atomic numbers [S], ascending.
    mean
        Mean features of each element [S, H].
    whiten
        Upper triangular W of each element [S, H, H]: the distance of x is the length of (x - mean) W, over sqrt(H).
    rigidity
        Rigidity of the last layer of energies, see `RigidityMoments.whiten`, or None.
    """

    elements: NDArray[np.int64]
    mean: Floats
    whiten: Floats
    rigidity: Floats | None = None

    def distance(self, z: NDArray[np.int64], features: Floats) -> Floats:
        """Return the distance of each atom [N]: about 1 in the training split, infinite for unknown elements.

        Parameters
        ----------
        z
            Atomic numbers [N].
        features
            Scalar features of the model [N, H].
        """
        return np.asarray(np.linalg.norm(self.whitened(z, features), axis=1), dtype=np.float64)

    def whitened(self, z: NDArray[np.int64], features: Floats) -> Floats:
        """Return the features [N, H] whose length is `distance`; infinite for unknown elements."""
        found = np.full(features.shape, np.inf)
        for k, element in enumerate(self.elements):
            of_element = z == element
            if of_element.any():
                off = (features[of_element] - self.mean[k]) @ self.whiten[k]
                found[of_element] = off / math.sqrt(features.shape[1])
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays for `from_arrays`."""
        found = {"elements": self.elements, "mean": self.mean, "whiten": self.whiten}
        return found if self.rigidity is None else {**found, "rigidity": self.rigidity}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Domain:
        """Return the domain from the result of `arrays`."""
        return cls(
            np.asarray(arrays["elements"], dtype=np.int64),
            np.asarray(arrays["mean"], dtype=np.float64),
            np.asarray(arrays["whiten"], dtype=np.float64),
            np.asarray(arrays["rigidity"], dtype=np.float64) if "rigidity" in arrays else None,
        )

    @classmethod
    def fit(cls, z: NDArray[np.int64], features: Floats) -> Domain:
        """Return the domain of atoms with features [N, H], see `FeatureMoments`."""
        moments = FeatureMoments()
        moments.add(z, features)
        found = moments.domain()
        if found is None:
            raise DataError("There are no atoms that a domain could be made of.")
        return found


class FeatureMoments:
    """Count, mean and scatter of the features of each element, batch by batch: memory does not grow with the atoms."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[int, Floats, Floats]] = {}

    def add(self, z: NDArray[np.int64], features: Floats) -> None:
        """Add atoms with atomic numbers [N] and features [N, H]."""
        for element in np.unique(z):
            own = features[z == element]
            n, mean = len(own), own.mean(0)
            scatter = (own - mean).T @ (own - mean)
            if int(element) in self._of:  # pairwise, Chan et al., Am. Stat. 37, 242 (1983): sums of squares cancel
                before, old_mean, old = self._of[int(element)]
                gap, total = mean - old_mean, before + n
                scatter = old + scatter + np.outer(gap, gap) * (before * n / total)
                n, mean = total, old_mean + gap * (n / total)
            self._of[int(element)] = n, mean, scatter

    def without(self, part: FeatureMoments) -> FeatureMoments:
        """Return the moments of the atoms that are not in ``part``, whose atoms must be among these."""
        left = FeatureMoments()
        for element, (n, mean, scatter) in self._of.items():
            m, own_mean, own = part._of.get(element, (0, mean, np.zeros_like(scatter)))
            if (rest := n - m) > 0:  # the pairwise sum of `add`, solved for one of its parts
                gap = own_mean - mean
                other = scatter - own - np.outer(gap, gap) * (m * n / rest)
                left._of[element] = rest, mean - gap * (m / rest), other
        return left

    def domain(self) -> Domain | None:
        """Return the domain of the added atoms, None without atoms.

        The covariance of an element is mixed with that of all elements; its own share grows as its number of atoms
        exceeds the number of features. So an element with few atoms still has a domain of finite extent.
        """
        elements = sorted(self._of)
        if not elements:
            return None
        width = len(self._of[elements[0]][1])
        pooled = sum(self._of[e][2] for e in elements) / max(1, sum(self._of[e][0] for e in elements))
        whiten = []
        for element in elements:
            n, _, scatter = self._of[element]
            weight = n / (n + width)
            covariance = weight * (scatter / n) + (1.0 - weight) * pooled
            ridge = _RIDGE * max(float(np.trace(covariance)) / width, 1e-12)
            lower = np.linalg.cholesky(covariance + ridge * np.eye(width))
            whiten.append(np.linalg.inv(lower).T)
        means = np.stack([self._of[e][1] for e in elements])
        return Domain(np.array(elements, dtype=np.int64), means, np.stack(whiten))


def threshold(distance: Floats, false_alarms: float = FALSE_ALARMS) -> float:
    """Return the distance beyond which a structure is out of domain, from those of validation structures [G].

    With 1 / false_alarms - 1 structures or more, an exchangeable structure is beyond it with probability
    ``false_alarms`` at most. With fewer structures, the threshold is the farthest one.
    """
    rank = min(len(distance), math.ceil(round((len(distance) + 1) * (1.0 - false_alarms), 9)))
    return float(np.partition(distance, rank - 1)[rank - 1])


@dataclass(frozen=True)
class AtomDistances:
    """Distances of the atoms of all structures [N], end to end, and the atoms of each structure [G]."""

    distance: Floats
    natoms: NDArray[np.int64]

    def whole(self) -> AtomDistances:
        """Return the structures whose atoms all have a finite distance."""
        finite = np.isfinite(averaged(self.distance, self.natoms))
        return AtomDistances(self.distance[np.repeat(finite, self.natoms)], self.natoms[finite])


def fit_thresholds(validation: AtomDistances, training: AtomDistances | None = None) -> DomainCalibration | None:
    """Return the thresholds from validation structures; None if they are infinite.

    Farthest atom and mean are each divided by the distance that a structure exceeds with half of `FALSE_ALARMS` if the
    logarithms are normal. The larger quotient has the conformal `threshold`, so both together keep the promise. The
    farthest of 100 validation structures scatters much. With ``training`` structures, at distances to the rest of the
    training data, all structures together determine the thresholds. These are never below those of validation alone,
    so the promise holds also if training structures are nearer than new ones.

    Parameters
    ----------
    validation
        At least one structure.
    training
        None, in older predictions: not known.
    """
    found = _thresholds(validation)
    if found is None:  # elements that the training split lacks
        return None
    n, trained = len(validation.natoms), None if training is None else training.whole()
    if trained is not None and len(trained.natoms):
        both = [np.concatenate([getattr(one, key) for one in (validation, trained)]) for key in ("distance", "natoms")]
        together = _thresholds(AtomDistances(*both))
        if together is not None:
            found = max(found[0], together[0]), max(found[1], together[1])
    total = n + (0 if trained is None else len(trained.natoms))
    return DomainCalibration(found[0], FALSE_ALARMS, total, (n + 1) * FALSE_ALARMS >= 1.0, found[1], total - n)


def _thresholds(found: AtomDistances) -> tuple[float, float] | None:
    """Return the thresholds of farthest atom and mean; None if they are infinite."""
    both = farthest(found.distance, found.natoms), averaged(found.distance, found.natoms)
    if not np.isfinite(both[1]).all():
        return None
    units = [_exceeded(of_structures, FALSE_ALARMS / 2) for of_structures in both]
    limit = threshold(np.maximum(both[0] / units[0], both[1] / units[1]))
    return limit * units[0], limit * units[1]


def _exceeded(distance: Floats, share: float) -> float:
    """Return the distance that a share of structures like these [G] exceeds, if its logarithm is normal."""
    logarithm = np.log(np.maximum(distance, _TINY))
    factor = statistics.NormalDist().inv_cdf(1.0 - share)
    return math.exp(float(logarithm.mean()) + factor * float(logarithm.std()))


def structure_distance(domain: DomainCalibration, distance: Floats, natoms: NDArray[np.int64]) -> Floats:
    """Return the distance of each structure [G] to the training data; beyond 1 it is out of domain.

    Parameters
    ----------
    domain
        The thresholds.
    distance
        Distances of the atoms of all structures [N], end to end.
    natoms
        Atoms of each structure [G].
    """
    found = farthest(distance, natoms) / domain.threshold
    if domain.average is None:
        return np.asarray(found)
    return np.maximum(found, averaged(distance, natoms) / domain.average)


@contextmanager
def recorded_features(potential: Potential, reduce: Callable[[Floats], Floats] = lambda x: x) -> Iterator[list[Floats]]:
    """Collect the scalar features [N, H] of each batch that a model predicts, or the result of ``reduce`` on them.

    They are float64, on the CPU.
    """
    found: list[Floats] = []

    def keep(_module: Any, _inputs: Any, output: tuple[Tensor, Any]) -> None:
        found.append(reduce(output[0].detach().to("cpu", torch.float64).numpy()))

    handle = potential.representation.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


class InOrder:
    """Applies ``of_batch`` to the features of batches, which arrive in the order of the atoms.

    Parameters
    ----------
    numbers
        Atomic numbers of all atoms [N].
    of_batch
        Takes the atomic numbers [n] and the features [n, H] of a batch: `Domain.distance`, or `FeatureMoments.add`.
    """

    def __init__(self, numbers: NDArray[Any], of_batch: Callable[[NDArray[np.int64], Floats], Floats | None]) -> None:
        self._numbers, self._of_batch, self._at = numbers, of_batch, 0

    def __call__(self, features: Floats) -> Floats:
        """Return the result for the next batch of atoms; an empty array [0] for None."""
        numbers = self._numbers[self._at : self._at + len(features)].astype(np.int64)
        self._at += len(features)
        found = self._of_batch(numbers, features)
        return np.zeros(0) if found is None else found


def pooled(whitened: Floats, natoms: NDArray[np.int64]) -> Floats:
    """Return the mean of the features [N, H] of the atoms of each structure [G, H]."""
    starts = np.cumsum(natoms) - natoms
    return np.asarray(np.add.reduceat(whitened, starts, axis=0) / natoms[:, None], dtype=np.float64)
