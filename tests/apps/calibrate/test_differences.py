"""Differences of energies: which pairs there are, what cancels, and that their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest

from gfm_pipeline.apps.calibrate.aggregate import SplitPredictions, TargetPredictions, mean_and_spread
from gfm_pipeline.apps.calibrate.calibrators import fit_calibration
from gfm_pipeline.apps.calibrate.differences import composition, difference_interval, fit_difference, pairs

LEVEL = 0.9


def alloys(seed: int, n: int = 400) -> SplitPredictions:
    """Structures of three compositions, whose errors are one of each composition and a small one beside it.

    The small one is a smooth function of the features: structures that are near each other have nearly the same.
    """
    rng = np.random.default_rng(seed)
    kind, size = rng.integers(3, size=n), rng.choice([4, 8], size=n)
    numbers = np.concatenate(
        [np.repeat([29, 79], [count, atoms - count]) for count, atoms in zip((kind + 1) * size // 4, size, strict=True)]
    )
    features = rng.normal(size=(n, 3))
    label = rng.normal(size=n)
    own = 0.003 * features @ [1.0, -2.0, 0.5]
    common = np.array([0.04, -0.05, 0.03])[kind]
    members = label + common + own + 0.0005 * rng.normal(size=(3, n))
    mean, spread = mean_and_spread(members)
    energy = TargetPredictions(label, members, mean, spread, np.arange(n), size=size.astype(float), place=np.arange(n))
    return SplitPredictions({"energy": energy}, n, size, None, numbers, (features,) * 3)


def test_compositions_are_proportional_or_not() -> None:
    assert composition(np.array([29, 79, 29, 79])) == composition(np.array([79, 29])) == ((29, 1), (79, 1))
    assert composition(np.full(31, 29)) == composition(np.full(32, 29))
    assert composition(np.array([8, 1, 1])) != composition(np.array([8, 1]))


def test_pairs_are_of_one_kind_and_of_two_structures() -> None:
    kinds = np.array([0, 0, 0, 0, 1, 1, 2])
    first, second = pairs(kinds)
    assert len(first) == 2 * 8 + 1
    assert (kinds[first] == kinds[second]).all()
    assert (first != second).all()
    assert [len(side) for side in pairs(np.arange(5))] == [0, 0]


def test_what_structures_have_in_common_cancels() -> None:
    weights = np.full(3, 1 / 3)
    validation, test = alloys(1), alloys(2)
    found = fit_difference(validation, test, weights, LEVEL)
    assert found is not None
    calibration, report = found
    assert report.coverage == pytest.approx(LEVEL, abs=0.04)
    energy = validation.targets["energy"]
    per_atom = fit_calibration(energy.error, energy.entries, LEVEL)
    alone = per_atom.quantile * per_atom.floor
    assert report.interval_halfwidth < 0.4 * alone
    typical = calibration.separation / 2
    near, usual, outside = (
        difference_interval(calibration, 1e-4, 0.0, 8, apart, far)
        for apart, far in ((0.05 * typical, 0.5), (typical, 0.5), (typical, 4.0))
    )
    assert near < 0.5 * usual
    assert outside > 2.0 * usual
    assert difference_interval(calibration, 1e-4, 0.0, 16, typical, 0.5) > usual


def test_without_pairs_or_elements_there_is_none() -> None:
    few = alloys(3, 12)
    assert fit_difference(few, few, np.full(3, 1 / 3), LEVEL) is None
    old = alloys(3)
    unknown = SplitPredictions(old.targets, old.n_structures, old.natoms)
    assert fit_difference(unknown, unknown, np.full(3, 1 / 3), LEVEL) is None
