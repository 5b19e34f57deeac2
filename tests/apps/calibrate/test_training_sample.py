"""Training structures beside validation ones: what short tails and small splits do then, and what they leave alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gfm_pipeline.apps.calibrate.calibrators import fit_calibration, halfwidth
from gfm_pipeline.apps.calibrate.domain import (
    AtomDistances,
    Domain,
    FeatureMoments,
    fit_thresholds,
    structure_distance,
)
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.apps.calibrate.training_sample import FOLDS, left_out_distances, training_sample
from gfm_pipeline.apps.calibrate.uncertainty import RigidityMoments, rigidity
from gfm_pipeline.apps.dataset import Columns
from gfm_pipeline.core.contracts.data import Split

NINE = 0.9  # level of intervals


def entries(spread: np.ndarray, element: np.ndarray | None = None) -> Entries:
    return Entries(spread, np.ones_like(spread), element=element)


def test_a_validation_split_with_a_short_tail_is_covered_by_the_errors_of_training_structures() -> None:
    rng = np.random.default_rng(4)
    drawn = rng.normal(size=400)
    short = drawn[np.abs(drawn) < np.quantile(np.abs(drawn), 0.75)][:100]  # its tail is missing
    training, fresh = rng.normal(size=400), rng.normal(size=20000)

    def covered(known: tuple[np.ndarray, Entries] | None) -> float:
        found = fit_calibration(short, entries(np.full(100, 0.3)), NINE, training=known)
        return float(np.mean(np.abs(fresh) <= halfwidth(found, entries(np.full(20000, 0.3)))))

    assert covered(None) < 0.8
    assert covered((training, entries(np.full(400, 0.3)))) == pytest.approx(NINE, abs=0.03)


def test_structures_that_the_members_know_by_heart_narrow_no_interval_and_widen_none() -> None:
    rng = np.random.default_rng(5)
    spread = 0.3 * np.exp(0.5 * rng.normal(size=300))
    error = spread * rng.normal(size=300)
    alone = fit_calibration(error, entries(spread), NINE)
    # Errors a tenth as large, spreads a thousandth: the ratio of the two is larger, the error is not.
    known = 0.1 * error, entries(0.001 * spread)
    assert fit_calibration(error, entries(spread), NINE, training=known) == alone
    unlabelled = np.zeros(0), entries(np.zeros(0))
    assert fit_calibration(error, entries(spread), NINE, training=unlabelled) == alone


def test_each_element_has_the_bound_of_its_own_atoms() -> None:
    rng = np.random.default_rng(6)
    element, spread = np.repeat([1, 8], 1500), np.full(3000, 0.1)
    error, cluster = rng.normal(size=3000), np.arange(3000) // 30
    alone = fit_calibration(error, entries(spread, element), NINE, cluster)
    larger = np.where(element == 8, 2.0, 0.5) * rng.normal(size=3000)
    found = fit_calibration(error, entries(spread, element), NINE, cluster, (larger, entries(spread, element)))
    assert found.by_element["H"] == alone.by_element["H"]
    assert found.by_element["O"] == pytest.approx(2.0 * alone.by_element["O"], rel=0.1)


def test_moments_without_some_atoms_are_those_of_the_rest() -> None:
    rng = np.random.default_rng(0)
    z, x = rng.choice([1, 6, 8], 600), 1e3 + rng.normal(size=(600, 5)) @ rng.normal(size=(5, 5))
    z[0] = 9  # the only atom of its element
    moments, part = FeatureMoments(), FeatureMoments()
    moments.add(z, x)
    part.add(z[:200], x[:200])
    rest, direct = moments.without(part).domain(), Domain.fit(z[200:], x[200:])
    np.testing.assert_array_equal(rest.elements, direct.elements)
    np.testing.assert_allclose(rest.mean, direct.mean, rtol=1e-9)
    np.testing.assert_allclose(rest.distance(z, x), direct.distance(z, x), rtol=1e-5)
    groups = np.arange(600) // 3
    found = left_out_distances(moments, z, groups, x)
    assert np.isinf(found[0])
    assert np.isfinite(found[3:]).all()
    fold = np.random.default_rng(0).permutation(200) % FOLDS  # whole groups are left out
    own = np.isin(groups, np.flatnonzero(fold == fold[1]))
    np.testing.assert_allclose(found[own], Domain.fit(z[~own], x[~own]).distance(z[own], x[own]), rtol=1e-5)


def test_few_validation_structures_give_the_stated_false_alarms_with_training_structures() -> None:
    rng = np.random.default_rng(2)
    one_atom = np.ones(30, dtype=np.int64)

    def drawn(n: int) -> np.ndarray:
        return np.exp(0.2 * rng.normal(size=n))

    alarms: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(100):
        validation = AtomDistances(drawn(30), one_atom)
        training = AtomDistances(np.append(drawn(300), np.inf), np.ones(301, dtype=np.int64))
        fresh = drawn(2000)
        for with_training, found in alarms.items():
            limits = fit_thresholds(validation, training if with_training else None)
            assert limits is not None
            assert not limits.guaranteed  # of 30 structures
            assert (limits.n, limits.left_out) == ((330, 300) if with_training else (30, 0))
            found.append(np.mean(structure_distance(limits, fresh, np.ones(2000, dtype=np.int64)) > 1.0))
    assert np.mean(alarms[False]) > 0.02
    assert np.mean(alarms[True]) < 0.012
    near = AtomDistances(0.01 * drawn(300), np.ones(300, dtype=np.int64))  # features that the model has by heart
    assert fit_thresholds(validation, near).threshold == fit_thresholds(validation).threshold


def test_the_rigidity_of_a_training_structure_is_that_without_it() -> None:
    rng = np.random.default_rng(3)
    inputs, moments, others = rng.normal(size=(40, 6)), RigidityMoments(), RigidityMoments()
    moments.add(inputs)
    others.add(inputs[1:])
    found = moments.left_out(rigidity(moments.whiten(), inputs))
    assert found[0] == pytest.approx(rigidity(others.whiten(), inputs[:1])[0], rel=1e-3)


def test_a_sample_has_no_isolated_atoms() -> None:
    natoms = np.array([1, 2, 1, 3])  # an isolated atom, a molecule, a cell of one atom, a molecule
    columns = Columns.build(
        numbers=np.array([8, 8, 1, 29, 8, 1, 1]),
        pos=np.zeros((7, 3)),
        forces=np.zeros((7, 3)),
        energy=np.arange(4.0),
        cell=np.zeros((4, 3, 3)),
        pbc=np.repeat(np.array([False, False, True, False])[:, None], 3, axis=1),
        natoms=natoms,
    )
    statistics = SimpleNamespace(n_structures={Split.TRAIN: 4})
    found = training_sample(SimpleNamespace(statistics=statistics, columns=lambda _, rows: columns.take(rows)))
    np.testing.assert_array_equal(found.energy, [1.0, 2.0, 3.0])
