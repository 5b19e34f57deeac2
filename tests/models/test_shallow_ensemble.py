"""Shallow ensembles: their deviations learn the size of errors, change nothing else, and give spreads of forces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import Structure, batch

from gfm_pipeline.core.contracts.targets import ENERGY
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import ModelSpec, Potential, multitask_loss
from gfm_pipeline.models.loss_functions import crps_gain
from gfm_pipeline.models.message_passing.painn import PaiNN
from gfm_pipeline.models.potential import part_name
from gfm_pipeline.models.readout import DEVIATIONS

CUTOFF, LAYERS = 4.0, 5
SHALLOW = f"{part_name(ENERGY)}.shallow"


def structures() -> list[Structure]:
    rng = np.random.default_rng(0)
    found = [Structure(rng.choice([1, 8], n), rng.normal(scale=1.5, size=(n, 3)), None, n % 2) for n in (3, 5, 4)]
    return [replace(s, energy=rng.normal(), forces=rng.normal(size=s.pos.shape)) for s in found]


def make(shallow: int, algorithm: str = "PaiNN") -> Potential:
    torch.manual_seed(0)
    spec = ModelSpec(algorithm, 8, 2, CUTOFF, n_datasets=2, dataset_units={"energy": (0.5, 2.0)})
    return Potential(replace(spec, shallow_ensemble=shallow)).double()


def test_the_deviations_learn_and_nothing_else_in_the_model_notices() -> None:
    data, scales = batch(structures(), CUTOFF), {"energy": torch.ones(2), "forces": torch.ones(2)}
    plain, model = make(1), make(LAYERS)
    model.load_state_dict(plain.state_dict(), strict=False)
    gradients = []
    for one in (plain, model):
        found = multitask_loss(one(data, training=True), data, scales, {"energy": 1.0, "forces": 2.0})
        found.total.backward(inputs=list(one.parameters()))
        gradients.append({name: p.grad for name, p in one.named_parameters()})
    learned = gradients[1].pop(SHALLOW)
    assert learned.abs().max() > 0.0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    for name, value in plain(data).values.items():
        torch.testing.assert_close(model(data).values[name], value)
    assert not plain(data, spreads=True).spreads


def test_the_score_is_the_continuous_ranked_probability_score() -> None:
    rng = np.random.default_rng(2)
    error, deviations = rng.normal(size=4), rng.normal(size=(4, LAYERS))
    grid = np.linspace(-12.0, 12.0, 200_001)
    for e, row, found in zip(error, deviations, crps_gain(torch.tensor(error), torch.tensor(deviations)), strict=True):
        distribution = (e + row[:, None] <= grid).mean(0)  # of the predictions less the label
        score = np.sum((distribution - (grid >= 0.0)) ** 2) * (grid[1] - grid[0])
        assert float(found) == pytest.approx(score - abs(e), abs=1e-3)


def test_deviations_become_as_large_as_the_errors() -> None:
    rng = np.random.default_rng(3)
    large = rng.uniform(0.1, 3.0, 2000)
    inputs = torch.tensor(np.stack([large * rng.choice([-1.0, 1.0], 2000), rng.normal(size=2000)], 1))
    error = torch.tensor(large * rng.normal(size=2000))
    weights = torch.nn.Parameter(0.1 * torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).double())
    optimiser = torch.optim.Adam([weights], lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        deviations = inputs @ (weights - weights.mean(1, keepdim=True))
        crps_gain(error, deviations).mean().backward()
        optimiser.step()
    spread = deviations.detach().std(1).numpy()
    assert crps_gain(error, deviations.detach()).mean() < -0.1
    assert np.corrcoef(spread, large)[0, 1] > 0.9
    assert 0.5 < np.median(spread / large) < 1.5


@pytest.mark.parametrize("algorithm", ["PaiNN", "SchNet"])
def test_spreads_of_energies_and_forces_are_those_of_the_last_layers(algorithm: str) -> None:
    model, data, step = make(LAYERS, algorithm), batch(structures(), CUTOFF), 1e-5
    found = model(data, spreads=True)
    energies = model.head_values(data)[DEVIATIONS]
    assert energies.shape == (3, LAYERS)
    torch.testing.assert_close(found.spreads["energy"], energies.std(1))
    torch.testing.assert_close(energies.sum(1), torch.zeros(3).double())
    for atom, axis in ((0, 0), (4, 2), (11, 1)):
        ends = []
        for sign in (1.0, -1.0):
            moved = replace(data, pos=data.pos.clone())
            moved.pos[atom, axis] += sign * step
            ends.append(model.head_values(moved)[DEVIATIONS].sum(0))
        slope = (ends[0] - ends[1]) / (2.0 * step)
        assert float(found.spreads["forces"][atom, axis]) == pytest.approx(float(slope.std()), rel=1e-5)


def test_a_model_that_gives_energies_has_no_last_layers_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PaiNN, "energy_head", lambda _self: torch.nn.Identity())
    make(1)
    with pytest.raises(ModelError, match="no features for a shallow ensemble"):
        make(LAYERS)
