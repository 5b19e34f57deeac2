"""The distance to the training data: what it is, what it flags, and that ensembles carry it everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfm_pipeline.apps.calibrate.domain import (
    AtomDistances,
    Domain,
    FeatureMoments,
    InOrder,
    fit_thresholds,
    recorded_features,
    structure_distance,
    threshold,
)
from gfm_pipeline.apps.calibrate.entries import farthest
from gfm_pipeline.core.contracts.evaluation import DomainCalibration
from gfm_pipeline.models import ModelSpec, Potential
from gfm_pipeline.models.batch import Batch


@pytest.fixture
def cloud() -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(0)
    z = rng.choice([1, 8], 4000)
    mixing = rng.normal(size=(6, 6))
    return z, (rng.normal(size=(4000, 6)) @ mixing) + 5.0 * z[:, None], rng


def test_distances_are_about_one_inside_and_the_same_in_every_basis(cloud) -> None:
    z, x, rng = cloud
    domain = Domain.fit(z, x)
    distance = domain.distance(z, x)
    assert np.sqrt(np.mean(distance**2)) == pytest.approx(1.0, rel=0.02)
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    other = Domain.fit(z, x @ turned)
    np.testing.assert_allclose(other.distance(z, x @ turned), distance, rtol=1e-6)
    assert np.isinf(domain.distance(np.array([26]), x[:1])).all()


def test_an_element_with_few_atoms_has_an_extent_all_the_same(cloud) -> None:
    _, x, rng = cloud
    z = np.array([1] * 3999 + [8])
    domain = Domain.fit(z, x - x.mean(0))
    near = domain.distance(np.array([8]), x[-1:] - x.mean(0) + 0.01 * rng.normal(size=(1, 6)))
    assert near < 0.5


def test_batches_of_any_size_give_the_domain_of_all_atoms(cloud) -> None:
    z, x, _ = cloud
    x = x + 1e4  # sums of squares would cancel
    moments = FeatureMoments()
    for part in np.split(np.arange(len(z)), [1, 2, 50, 3000]):
        moments.add(z[part], x[part])
    whole, pieces = Domain.fit(z, x), moments.domain()
    assert FeatureMoments().domain() is None
    np.testing.assert_allclose(pieces.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(pieces.distance(z, x), whole.distance(z, x), rtol=1e-6)


def test_the_threshold_keeps_its_promise_and_structures_are_as_far_as_their_farthest_atom(cloud) -> None:
    z, x, rng = cloud
    natoms = rng.integers(1, 5, 1000)
    domain = Domain.fit(z, x)
    flags = []
    for _ in range(200):
        drawn = rng.normal(size=1000) ** 2
        flags.append(np.mean(rng.normal(size=500) ** 2 > threshold(drawn[:300], 0.01)))
    assert np.mean(flags) == pytest.approx(0.01, abs=0.003)
    assert threshold(np.array([1.0, 3.0, 2.0]), 0.01) == 3.0
    distance = domain.distance(z[: natoms.sum()], x[: natoms.sum()])
    ends = np.cumsum(natoms)
    expected = [distance[end - n : end].max() for n, end in zip(natoms, ends, strict=True)]
    np.testing.assert_array_equal(farthest(distance, natoms), expected)


def test_one_far_atom_and_all_atoms_a_little_farther_are_both_out_of_domain() -> None:
    rng = np.random.default_rng(1)
    natoms = np.full(500, 30)

    def lengths(scale: float = 1.0) -> np.ndarray:  # of the features of atoms; a structure has its own temperature
        warm = np.repeat(scale * np.exp(0.02 * rng.normal(size=500)), 30)
        return warm * np.linalg.norm(rng.normal(size=(15000, 4)), axis=1)

    found = fit_thresholds(AtomDistances(lengths(), natoms))
    assert found.guaranteed
    alarms = [np.mean(structure_distance(found, lengths(), natoms) > 1.0) for _ in range(20)]
    assert 0.001 < np.mean(alarms) < 0.02  # of structures that the thresholds have not seen
    broken = lengths()
    broken[::30] = 2.0 * found.threshold
    far = structure_distance(found, broken, natoms)
    assert (far >= 2.0).all()
    warm = lengths(1.4)
    only_farthest = DomainCalibration(found.threshold, found.false_alarms, found.n, guaranteed=True)
    assert np.mean(structure_distance(only_farthest, warm, natoms) > 1.0) < 0.8  # as in earlier versions
    assert np.mean(structure_distance(found, warm, natoms) > 1.0) > 0.9
    assert fit_thresholds(AtomDistances(np.array([1.0, np.inf]), np.array([1, 1]))) is None


def test_features_are_recorded_batch_by_batch_and_only_meanwhile() -> None:
    ends, none = torch.tensor([0, 1, 1, 2]), torch.zeros(3, dtype=torch.int64)
    batch = Batch(
        torch.tensor([1, 8, 1]),
        torch.eye(3),
        ends,
        torch.tensor([1, 0, 2, 1]),
        torch.zeros(4, 3),
        none,
        none[:1] + 3,
        none[:1],
    )
    model = Potential(ModelSpec("SchNet", 8, 1, 4.0))
    with recorded_features(model) as found:
        model(batch)
        model(batch)
    with recorded_features(model) as without_derivatives:
        model.head_values(batch)
    np.testing.assert_allclose(without_derivatives[0], found[0], rtol=1e-6)
    model(batch)
    assert [x.shape for x in found] == [(len(batch.z), 8)] * 2
    numbers = np.tile(batch.z.numpy(), 2)
    domain = Domain.fit(numbers, np.concatenate(found))
    with recorded_features(model, InOrder(numbers, domain.distance)) as distances:
        model(batch)
        model(batch)
    np.testing.assert_allclose(np.concatenate(distances), domain.distance(numbers, np.concatenate(found)))
