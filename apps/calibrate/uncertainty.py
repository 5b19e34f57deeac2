"""Measures of the raw spread of a prediction, before calibration.

``calibrate.uncertainty`` names one. Another package adds one by an entry point of the group
``gfm_pipeline.uncertainties``, whose value names a `PolicyDescription` of an `UncertaintyMeasure`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from gfm_pipeline.apps.calibrate.aggregate import SplitPredictions, mean_and_spread
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.contracts.targets import ENERGY, Level, Target
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.models import Potential
from gfm_pipeline.models.potential import part_name
from gfm_pipeline.models.readout import Features, ScalarHead

_RIDGE = 1e-6  # of the mean square: limits the uncertainty of directions absent from the training structures


@dataclass(frozen=True)
class MemberEvidence:
    """Information about the predictions of one target by K members.

    Attributes
    ----------
    target
        The predicted target.
    members
        Values [K, ...].
    weights
        Share of each member in the mean [K].
    rigidity
        Rigidity of each value of a structure [K, ...], see `Rigidity`; None when not known.
    within
        Spread of the shallow ensemble of each member [K, ...]; None when not every member has one.
    """

    target: Target
    members: Array
    weights: Array
    rigidity: Array | None = None
    within: Array | None = None


class UncertaintyMeasure(ABC):
    """A definition of the raw spread of predictions."""

    needs_rigidity = False

    @abstractmethod
    def spread(self, evidence: MemberEvidence) -> Array:
        """Return the non-negative spread of each value [...] in any unit, since calibration scales it."""


class EnsembleSpread(UncertaintyMeasure):
    """The standard deviation of the members, and within them if they have shallow ensembles; else 0 for one member."""

    def spread(self, evidence: MemberEvidence) -> Array:
        """See `UncertaintyMeasure.spread`."""
        between = mean_and_spread(evidence.members, evidence.weights)[1]
        if evidence.within is None:
            return between
        within = np.tensordot(evidence.weights, np.square(evidence.within), 1)  # law of total variance
        return np.asarray(np.sqrt(np.square(between) + within), dtype=np.float64)


class LastLayerRigidity(UncertaintyMeasure):
    """Last-layer prediction rigidity of energies, also for one member (Bigi et al., MLST 5, 045010 (2024)).

    Other targets have no spread; their intervals depend on the distance to the training data and the length of vectors.
    """

    needs_rigidity = True

    def spread(self, evidence: MemberEvidence) -> Array:
        """See `UncertaintyMeasure.spread`."""
        if evidence.target != ENERGY:
            return np.zeros(evidence.members.shape[1:])
        if evidence.rigidity is None:
            raise DataError(
                "A member has no last layer of energies, so calibrate.uncertainty cannot be llpr.",
                "Use ensemble, or other algorithms.",
            )
        return np.asarray(np.tensordot(evidence.weights, evidence.rigidity, 1), dtype=np.float64)


def measured(
    split: SplitPredictions, measure: UncertaintyMeasure, targets: Sequence[Target], weights: Array
) -> SplitPredictions:
    """Return predictions with their mean weighted by ``weights`` [K], and the spread of a measure."""
    found = {}
    for target in targets:
        weighted = split.targets[target.name].weighted(weights)
        rigid = split.rigidity if target.level is Level.GRAPH else None
        evidence = MemberEvidence(
            target, weighted.members, weights, None if rigid is None else rigid[:, weighted.place], weighted.within
        )
        found[target.name] = replace(weighted, spread=measure.spread(evidence))
    return replace(split, targets=found)


class RigidityMoments:
    """Sums of the squares of the last layer's inputs over training structures; memory does not grow with them."""

    def __init__(self) -> None:
        self._n, self._sum = 0, np.zeros((0, 0))

    def add(self, inputs: Array) -> None:
        """Add structures by their mean inputs [G, H]."""
        x = _with_bias(inputs)
        self._sum = x.T @ x if not self._n else self._sum + x.T @ x
        self._n += len(x)

    def left_out(self, found: Array) -> Array:
        """Return what the rigidity [G] of structures among the added ones would be without each of them."""
        share = np.square(found) / max(1, self._n)  # of the structure in its own variance, below 1
        return np.asarray(found * np.sqrt(max(0, self._n - 1) / self._n / (1.0 - share)), dtype=np.float64)

    def whiten(self) -> Array | None:
        """Return W [H + 1, H + 1]: the rigidity of inputs x is the length of (x, 1) W. None without structures."""
        if not self._n:
            return None
        mean = self._sum / self._n
        ridge = _RIDGE * max(float(np.trace(mean)) / len(mean), 1e-12)
        return np.asarray(np.linalg.inv(np.linalg.cholesky(mean + ridge * np.eye(len(mean)))).T, dtype=np.float64)


def rigidity(whiten: Array, inputs: Array) -> Array:
    """Return the deviation of a linear last layer's output [G], up to one factor, for mean inputs [G, H]."""
    return np.asarray(np.linalg.norm(_with_bias(inputs) @ whiten, axis=1), dtype=np.float64)


def _with_bias(inputs: Array) -> Array:
    return np.hstack([inputs, np.ones((len(inputs), 1))])


@contextmanager
def recorded_last_layer(potential: Potential) -> Iterator[list[Array]]:
    """Collect the input of the last layer of energies for each atom [N, H], batch by batch; nothing for other heads."""
    found: list[Array] = []
    if ENERGY not in potential.spec.targets:
        yield found
        return
    head = potential.get_submodule(part_name(ENERGY))

    def keep(module: Any, given: tuple[Features, Tensor], _output: Any) -> None:
        if isinstance(module, ScalarHead):
            found.append(module.last_layer(*given).detach().to("cpu").double().numpy())

    handle = head.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()
