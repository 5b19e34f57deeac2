"""Parallel coordinates, importances and the Pareto front of a search."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from synthetic_campaign import finished_campaign

from gfm_pipeline.core.contracts.energy import EnergyLabel
from gfm_pipeline.report.figures import search
from gfm_pipeline.report.html import render_html
from gfm_pipeline.report.hyperparameters import FEWEST, hyperparameters, importances
from gfm_pipeline.report.view import CampaignView, CandidateView, KilowattHours, RungView


def candidate(k: int, settings: dict[str, object], value: float | None, kwh: float = 1.0) -> CandidateView:
    energy = KilowattHours(kwh, None, EnergyLabel.MODELLED, "model")
    rungs = (RungView(0, 100, value, 1.0),)
    return CandidateView(f"c{k}", 0, settings, rungs, "finished", "", (), energy=energy)


def searched(count: int) -> tuple[CandidateView, ...]:
    """The objective follows the learning rate closely, the width a little, and the rest not at all."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(count):
        algorithm = ("EGNN", "PaiNN")[k % 2]
        rate, hidden, batch = float(10 ** rng.uniform(-4, -2)), int(rng.choice([16, 32, 64])), int(rng.choice([4, 8]))
        own = {"sharpness": float(rng.uniform())} if algorithm == "EGNN" else {}
        value = math.exp(0.5 * (math.log10(rate) + 3.0) ** 2 - 0.002 * hidden)
        settings = {"algorithm": algorithm, "learning_rate": rate, "hidden": hidden, "batch_size": batch, **own}
        found.append(candidate(k, settings, value, kwh=float(rng.uniform(0.1, 2.0))))
    return tuple(found)


@pytest.fixture(scope="module")
def view() -> CampaignView:
    return dataclasses.replace(finished_campaign()[0], candidates=searched(120))


def test_the_hyperparameter_that_decides_is_the_most_important(view: CampaignView) -> None:
    found = importances(view.candidates)
    assert found is not None
    assert found.names[0] == "learning rate"
    assert found.values[0] > 5 * found.values[1]
    assert dict(zip(found.names, found.values, strict=True))["batch size"] < 0.05
    assert found.r2 > 0.8
    assert found == importances(view.candidates)
    page = render_html(view)
    assert "5 folds, 120 candidates at the first rung" in page
    assert f"predict {100 * found.r2:.0f} %" in page
    assert f"learning rate {found.values[0]:.2f}" in page  # of the figure, for screen readers


def test_noise_has_no_importance_and_few_candidates_none_at_all(view: CampaignView) -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(0.5, 1.0, 60)
    noise = tuple(candidate(k, view.candidates[k].settings, float(values[k])) for k in range(60))
    page = render_html(dataclasses.replace(view, candidates=noise))
    assert "That is too little to tell them apart." in page
    assert importances(view.candidates[: FEWEST - 1]) is None
    assert "Permutation importance" not in render_html(dataclasses.replace(view, candidates=view.candidates[:9]))


def test_each_candidate_is_a_line_through_its_own_values(view: CampaignView) -> None:
    svg = search.parallel_coordinates(view)
    assert svg is not None
    names = "algorithm, learning rate, hidden, batch size, sharpness, objective"
    assert f"Parallel coordinates of 120 candidates: {names}." in svg
    assert len(re.findall(r"<path d=\"M [^\"]*\"[^>]*style=\"fill: none", svg)) >= 120
    for text in ("EGNN", "PaiNN", "16", "32", "64"):
        assert f">{text}<" in svg
    found = {one.name: one for one in hyperparameters(view.candidates)}
    assert found["learning rate"].logarithmic
    assert not found["hidden"].logarithmic
    assert np.isnan(found["sharpness"].numbers).sum() == 60  # of PaiNN, which has none
    assert search.parallel_coordinates(dataclasses.replace(view, candidates=view.candidates[:1])) is None


def test_no_candidate_of_the_front_is_beaten_and_every_other_one_is(view: CampaignView) -> None:
    front = search.front(view.candidates)
    points = {c.name: (kwh, value) for kwh, value, c in search.spent(view.candidates)}
    on_front = {c.name for _, _, c in front}
    assert 1 < len(on_front) < len(points)
    for name, (kwh, value) in points.items():
        beaten = any(k <= kwh and v <= value and (k, v) != (kwh, value) for k, v in points.values())
        assert beaten != (name in on_front)
    svg = search.pareto(view)
    assert svg is not None
    assert "Objective and energy of 120 candidates" in svg
    first = front[0][2]
    assert f"Pareto front: {first.name} {front[0][1]:.4f} at" in svg
    without = tuple(dataclasses.replace(c, energy=None) for c in view.candidates)
    assert search.pareto(dataclasses.replace(view, candidates=without)) is None
