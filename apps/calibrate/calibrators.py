"""Conversion of an ensemble's spread to valid intervals: a deviation per entry, then a conformal factor.

Raw ensembles are over-confident, so their spread is corrected in four steps, for each dataset and each
quantity on its own (a Mondrian taxonomy: Vovk, Gammerman and Shafer, 2005, section 4.5):

1. s = sqrt((scale * spread)**2 + floor**2 + (relative * length)**2). The floor is the error all members share: it
   falls with a power of the number of atoms and grows with a power of the distance to the training data
   (`FloorModel`); the last term is for vectors, whose errors grow with their length. All are of the largest likelihood
   of Student's t with four degrees of freedom, in which one wild error counts no more than a few large ones; a
   Gaussian likelihood (Busk et al., Phys. Chem. Chem. Phys. 25, 25828 (2023)) is ruled by its outliers.
2. One factor for all s minimises the miscalibration area. If the area is larger than that of the raw spread,
   the spread with its own factor replaces s. So on its own data, a calibration is never worse than the raw spread.
3. q, the normalised split-conformal quantile of abs(error) / s with the finite-sample correction (Vovk et al., 2005;
   Angelopoulos and Bates, 2021, section 2.3.2), of entries of atoms for each element on its own where it has enough.
   The interval is mean +- q * s.
4. q is at least the same quantile of training structures, as far as their errors are larger too. Errors on structures
   that a model has not seen are in expectation no smaller than those on its training structures, so a validation split
   whose errors have a shorter tail has it by chance, or by the choices that were made on it.

Guarantees and their limits. Step 3 covers at least ``level`` when the entries of the fit and the new one are
exchangeable. The force components of one structure are correlated, and so are the structures of one trajectory; the
number of independent entries is therefore smaller than the count, and the coverage found on another split scatters more
than a binomial count would (`metrics.coverage_error` has the honest width). Splits must not share a trajectory. The fit
uses the validation split, which also decided when members stopped and which were selected. Errors there are therefore
slightly too small; step 4 bounds this. Its claim is of splits drawn at random from the same structures. Only the test
split, which no fit uses, serves for evaluation. There is no guarantee for structures unlike those of the dataset; their
intervals grow with the distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate import metrics
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.apps.calibrate.likelihood import fit_shape
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.contracts.evaluation import FloorModel, QuantityCalibration
from gfm_pipeline.core.errors import DataError

_SAMPLE = 10_000  # entries for the likelihood; quantiles use all entries
_VANISHING = 0.1  # of the floor: components that all members put below it vanish by symmetry
_SYMMETRIC = 1e-3  # of a typical vector: shorter ones vanish by symmetry
_OF_ELEMENT = 300  # entries of an element, and
_STRUCTURES = 20  # independent groups, for a quantile of its own
_FACTORS = np.exp(np.linspace(-2.0, 2.0, 401))


def deviation(calibration: QuantityCalibration, entries: Entries) -> Array:
    """Return the calibrated standard deviation of each entry [n], in the unit of its spread."""
    floor, model = calibration.floor, calibration.model
    wider = 1.0 if entries.distance is None else np.maximum(1.0, entries.distance)
    if model is None:
        return np.asarray(wider * np.hypot(calibration.scale * entries.spread, floor))
    of_floor = floor * floor_factor(model, entries)
    found = np.hypot(calibration.scale * entries.spread, of_floor)
    if model.relative and (length := entries.length) is not None:
        found = np.hypot(found, model.relative * length)
    return np.maximum(wider * found, metrics.SMALLEST_SPREAD)


def floor_factor(model: FloorModel, entries: Entries) -> Array:
    """Return the factor of the floor of each entry [n]."""
    factor = np.ones(len(entries))
    if entries.size is not None and model.size_power:
        factor = factor * (entries.size / model.typical_size) ** -model.size_power
    known: NDArray[np.bool_] = np.ones(len(entries), dtype=bool)
    if entries.distance is not None:
        known = entries.distance <= 1.0
        if model.distance_power:
            factor = factor * (np.clip(entries.distance, model.nearest, 1.0) / model.typical_distance) ** (
                model.distance_power
            )
    if model.vanishing:
        # All members predict nearly zero in a known environment: the component vanishes by symmetry, also in the label.
        largest = np.hypot(entries.mean, entries.spread)
        factor = np.where(known, factor * np.minimum(1.0, largest / model.vanishing), factor)
    return factor


def halfwidth(calibration: QuantityCalibration, entries: Entries) -> Array:
    """Return the calibrated half-width of each entry's interval [n]."""
    quantile: Array | float = calibration.quantile
    if entries.element is not None and calibration.by_element:
        quantile = np.full(len(entries), calibration.quantile)
        for symbol, own in calibration.by_element.items():
            quantile[entries.element == chemical_symbols.index(symbol)] = own
    return np.asarray(quantile * deviation(calibration, entries), dtype=np.float64)


def conformal_quantile(score: Array, level: float) -> float:
    """Return the ceil((n + 1) level)-th smallest of n scores; infinite when n is too small for ``level``.

    For every n, a new exchangeable score is at most this value with probability ``level`` or more.
    """
    # Rounding first: 0.9 * 10 is 9.000000000000002 for some levels, and ceil would take 10.
    rank = math.ceil(round((len(score) + 1) * level, 9))
    if rank > len(score):
        return math.inf
    return float(np.partition(score, rank - 1)[rank - 1])


def fit_calibration(
    error: Array,
    entries: Entries,
    level: float,
    cluster: NDArray[np.int64] | None = None,
    training: tuple[Array, Entries] | None = None,
) -> QuantityCalibration:
    """Fit all steps on validation entries; entries of one ``cluster`` [n] are dependent (None: all independent).

    ``training`` are errors and entries of training structures, for step 4; None: not known.

    Raises
    ------
    DataError
        When there is no entry, or an entry is not finite.
    """
    if len(error) == 0:
        raise DataError("The validation split has no label to calibrate on.", "Give it a larger share in `ingest`.")
    if not (np.isfinite(error).all() and np.isfinite(entries.spread).all()):
        raise DataError("Validation predictions or labels are not finite, so the spread cannot be calibrated.")
    groups = np.arange(len(error)) if cluster is None else cluster
    found = _never_worse(_shaped(error, entries, level, len(np.unique(groups))), error, entries)
    score = np.abs(error) / deviation(found, entries)
    quantile = conformal_quantile(score, level)
    guaranteed = math.isfinite(quantile)
    by_element = _of_elements(score, entries.element, groups, level) if guaranteed else {}
    quantile = quantile if guaranteed else float(score.max())
    if training is not None and len(training[0]):
        known = _Scores(np.abs(training[0]), np.abs(training[0]) / deviation(found, training[1]), training[1].element)
        here = _Scores(np.abs(error), score, entries.element)
        quantile = _bounded(quantile, here, known, level)
        by_element = {
            symbol: _bounded(own, here.of(symbol), known.of(symbol), level) for symbol, own in by_element.items()
        }
    return QuantityCalibration(
        found.scale,
        found.floor,
        quantile,
        level,
        len(error),
        guaranteed,
        found.model,
        by_element,
    )


@dataclass(frozen=True)
class _Scores:
    """Absolute errors and their ratio to the deviation [n], and the atomic numbers of entries of atoms."""

    error: Array
    score: Array
    element: NDArray[np.int64] | None

    def of(self, symbol: str) -> _Scores:
        """Return the entries of one element."""
        if self.element is None:
            return self
        own = self.element == chemical_symbols.index(symbol)
        return _Scores(self.error[own], self.score[own], self.element[own])


def _bounded(quantile: float, here: _Scores, training: _Scores, level: float) -> float:
    """Return the quantile of validation, raised to that of training as far as the errors there are larger.

    Members agree more on structures that they were trained on, so a ratio of error and spread alone may be larger
    there while both are smaller.
    """
    of_training = conformal_quantile(training.score, level)
    errors, own = conformal_quantile(training.error, level), conformal_quantile(here.error, level)
    if not math.isfinite(of_training):
        return quantile
    if not math.isfinite(own):
        own = float(here.error.max())
    if own > 0.0:
        of_training = min(of_training, quantile * errors / own)
    return max(quantile, of_training)


def _shaped(error: Array, entries: Entries, level: float, groups: int) -> QuantityCalibration:
    """Return scale, floor and the floor's dependence, in units that minimise the miscalibration area."""
    per = 3 if entries.vector else 1
    chosen = _not_vanishing(entries)
    if len(error) > _SAMPLE:
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[: _SAMPLE // per])
    part = entries.take(chosen)
    errors = error.reshape(-1, per)[chosen].reshape(-1)
    scale, floor, model = fit_shape(errors, part, groups)
    raw = QuantityCalibration(scale, floor, 1.0, level, len(error), True, model)
    factor = _factor(np.abs(errors) / deviation(raw, part))
    scale, floor = factor * scale, factor * floor
    vanishing = _VANISHING * floor if entries.vector else 0.0
    model = FloorModel(
        relative=factor * model.relative,
        size_power=model.size_power,
        typical_size=model.typical_size,
        distance_power=model.distance_power,
        typical_distance=model.typical_distance,
        nearest=model.nearest,
        vanishing=vanishing,
    )
    return QuantityCalibration(scale, floor, 1.0, level, len(error), True, model)


def _not_vanishing(entries: Entries) -> NDArray[np.int64]:
    """Return the indices of vectors that do not vanish by symmetry; vanishing ones do not inform the floor."""
    if not entries.vector:
        return np.arange(len(entries))
    largest = np.hypot(entries.mean, entries.spread).reshape(-1, 3).max(axis=1)
    if not largest.any():
        return np.arange(len(largest))
    return np.flatnonzero(largest > _SYMMETRIC * float(np.median(largest[largest > 0.0])))


def _never_worse(found: QuantityCalibration, error: Array, entries: Entries) -> QuantityCalibration:
    """Return the calibration, or the spread times a factor if its miscalibration area is smaller."""
    raw = metrics.miscalibration_area(error, entries.spread)
    if metrics.miscalibration_area(error, deviation(found, entries)) <= raw:
        return found
    spread = np.maximum(entries.spread, metrics.SMALLEST_SPREAD)
    factor = _factor(np.abs(error) / spread)
    if metrics.miscalibration_area(error, factor * spread) > raw:
        factor = 1.0
    return QuantityCalibration(factor, metrics.SMALLEST_SPREAD, 1.0, found.level, found.n, True, FloorModel())


def _factor(score: Array) -> float:
    """Return the factor of the deviations with the smallest miscalibration area, from abs(error) / deviation."""
    middle = float(np.median(score)) / metrics.normal_factor(0.5)
    if middle <= 0.0:
        return 1.0
    ordered = np.sort(score)
    expected = np.linspace(0.0, 1.0, 101)
    bounds = np.append([metrics.normal_factor(p) for p in expected[:-1]], np.inf)
    gaps = [
        np.abs(np.searchsorted(ordered, k * middle * bounds, side="right") / len(ordered) - expected).sum()
        for k in _FACTORS
    ]
    return float(middle * _FACTORS[int(np.argmin(gaps))])


def _of_elements(
    score: Array, element: NDArray[np.int64] | None, groups: NDArray[np.int64], level: float
) -> dict[str, float]:
    """Return the quantiles of elements with entries from enough structures."""
    if element is None:
        return {}
    found = {}
    for number in np.unique(element):
        own = element == number
        if np.count_nonzero(own) >= _OF_ELEMENT and len(np.unique(groups[own])) >= _STRUCTURES:
            found[chemical_symbols[number]] = conformal_quantile(score[own], level)
    return found
