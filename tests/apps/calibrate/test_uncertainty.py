"""Measures of uncertainty: what they are of known members, and who may add one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfm_pipeline.apps.calibrate.aggregate import mean_and_spread
from gfm_pipeline.apps.calibrate.uncertainty import (
    MemberEvidence,
    RigidityMoments,
    UncertaintyMeasure,
    recorded_last_layer,
    rigidity,
)
from gfm_pipeline.core.contracts.policies import UNCERTAINTIES, PolicyChoice, make_policy
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES
from gfm_pipeline.core.errors import ConfigError, DataError
from gfm_pipeline.models import ModelSpec, Potential
from gfm_pipeline.models.batch import Batch


def measure(name: str) -> UncertaintyMeasure:
    return make_policy(UNCERTAINTIES, PolicyChoice(name, {}), UncertaintyMeasure)


def test_the_rigidity_is_the_deviation_of_a_linear_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5))
    moments = RigidityMoments()
    for part in np.split(x, [1, 3, 200]):
        moments.add(part)
    whiten = moments.whiten()
    assert whiten is not None
    new = 3.0 * rng.normal(size=(6, 5))
    design, asked = (np.hstack([a, np.ones((len(a), 1))]) for a in (x, new))
    exact = np.sqrt(np.einsum("gi,ij,gj->g", asked, np.linalg.inv(design.T @ design), asked))
    np.testing.assert_allclose(rigidity(whiten, new) / np.sqrt(len(x)), exact, rtol=1e-3)
    assert RigidityMoments().whiten() is None


def test_what_is_recorded_is_what_the_last_layer_reads() -> None:
    model = Potential(ModelSpec("SchNet", 8, 1, 4.0)).eval()  # torch's evaluation mode
    ends, none = torch.tensor([0, 1, 1, 2]), torch.zeros(3, dtype=torch.int64)
    batch = Batch(
        torch.tensor([1, 8, 1]), torch.eye(3), ends, torch.tensor([1, 0, 2, 1]), torch.zeros(4, 3), none,
        none[:1] + 3, none[:1],
    )  # fmt: skip
    with recorded_last_layer(model) as inputs:
        energy = model(batch).energy
    head = model.node_energy
    of_atoms = torch.from_numpy(inputs[0]).float() @ head.weight2[0].detach() + head.bias2[0].detach()
    assert float(of_atoms.sum() * model.spec.scale(ENERGY)) == pytest.approx(float(energy), rel=1e-4)


def test_each_measure_says_what_it_knows() -> None:
    members, weights = np.random.default_rng(1).normal(size=(3, 7)), np.array([0.5, 0.3, 0.2])
    evidence = MemberEvidence(ENERGY, members, weights, np.abs(members))
    np.testing.assert_array_equal(measure("ensemble").spread(evidence), mean_and_spread(members, weights)[1])
    np.testing.assert_allclose(measure("llpr").spread(evidence), weights @ np.abs(members))
    assert not measure("llpr").spread(MemberEvidence(FORCES, members, weights)).any()
    with pytest.raises(DataError, match="no last layer of energies"):
        measure("llpr").spread(MemberEvidence(ENERGY, members, weights))
    with pytest.raises(ConfigError, match=r"no measure of uncertainty 'lpr'\. Did you mean llpr"):
        measure("lpr")
