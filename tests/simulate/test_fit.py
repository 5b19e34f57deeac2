"""What is fitted to recorded times and objectives is what they were made from."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from simulations import RESOURCES, WORKFLOW, simulation

from gfm_pipeline.core.contracts.training import settings_of
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.simulate.fit import fit_cost, fit_curve
from gfm_pipeline.simulate.learning_curve import LearningCurves
from gfm_pipeline.simulate.recorded import Recorded, RecordedObjective, RecordedTraining, recorded
from gfm_pipeline.simulate.request import simulated
from gfm_pipeline.simulate.scenario import CostModel, CurveModel
from gfm_pipeline.simulate.training_cost import TrainingCost
from gfm_pipeline.workflow.load import load_workflow


@pytest.fixture
def space(tmp_path: Path):
    (tmp_path / "w.yaml").write_text(WORKFLOW + RESOURCES)
    return load_workflow(tmp_path / "w.yaml").model.search.space.compile()


def candidates(space, count: int) -> list[dict]:
    import numpy as np

    return [space.settings(row) for row in space.sample(count, np.random.default_rng(4))]


def test_times_are_found_again(space):
    true = CostModel(
        startup_seconds=40.0, graph_seconds=1e-4, step_seconds=0.03, rank_flops=2e11, scatter=0.0, bandwidth=1e30,
        latency=0.0, checkpoint_seconds=0.0, hand_over_seconds=3.0, workers_seconds=20.0,
        algorithms={"SchNet": 0.9, "EGNN": 1.0, "PaiNN": 6.0, "PNA": 2.0},
    )  # fmt: skip
    cost, trainings = TrainingCost(true, gpu=True), []
    draw = random.Random(1)
    for number, chosen in enumerate(candidates(space, 80)):
        model, optimiser = settings_of(chosen)
        graphs, ranks = (20_000, 60_000)[number % 2], (1, 4)[number % 3 == 0]
        pace = cost.seconds_a_graph(model, optimiser.batch_size, ranks)
        seconds = (40.0 + graphs * pace) * draw.uniform(0.99, 1.01)
        trainings.append(RecordedTraining(seconds, graphs, model, optimiser, ranks))
    told = Recorded(trainings=trainings, handed_over=[3.0, 3.1, 2.9, 50.0], workers=[20.5])
    found = fit_cost(CostModel(), told)
    assert found.hand_over_seconds == pytest.approx(14.75)  # the mean: 50 s are part of the makespan too
    assert found.workers_seconds == pytest.approx(20.0)
    again = TrainingCost(found, gpu=True)
    for training in trainings:
        pace = again.seconds_a_graph(training.model, training.optimiser.batch_size, training.ranks)
        assert found.startup_seconds + training.graphs * pace == pytest.approx(training.seconds, rel=0.15)
    assert found.algorithms["PaiNN"] > 2 * found.algorithms["EGNN"]  # three times as much was assumed


def test_curves_are_found_again(space):
    true = CurveModel(floor=0.0, amplitude=0.4, graphs=20_000, exponent=0.5, scatter=0.05, noise=0.02, diverged=0.0)
    curves = LearningCurves(true, space, seed=9)
    chosen = candidates(space, 120)
    told = [
        RecordedObjective(f"c{n}", settings, graphs, curves.objective(settings, f"c{n}", graphs))
        for n, settings in enumerate(chosen)
        for graphs in ((20_000, 60_000) if n % 3 == 0 else (20_000,))
    ]
    found = fit_curve(CurveModel(), told, space)
    assert found.exponent == pytest.approx(0.5, abs=0.15)
    assert found.noise == pytest.approx(0.02, abs=0.02)
    assert found.scatter < 0.1  # of a spread of 0.5, nearly all is what settings do
    again = LearningCurves(found.model_copy(update={"scatter": 0.0, "noise": 0.0}), space, seed=1)
    for settings in candidates(space, 20):
        wanted = true.amplitude * 2.718281828 ** curves.quality(settings)
        assert again.objective(settings, "other", 20_000) == pytest.approx(min(1.5, wanted), rel=0.2)


@pytest.mark.parametrize(
    ("what", "words"), [("nowhere", "holds no campaign"), ("simulated", "is a simulation"), ("empty", "no training")]
)
def test_what_cannot_be_fitted_to_is_refused(tmp_path, what, words):
    folder = tmp_path / "c"
    if what == "simulated":
        from dataclasses import replace

        simulated(replace(simulation(tmp_path), folder=folder), compare=False)
        (folder / "resolved.json").write_text(resolved(tmp_path))
    elif what == "empty":
        folder.mkdir()
        (folder / "journal.jsonl").touch()
        (folder / "resolved.json").write_text(resolved(tmp_path))
    with pytest.raises(ConfigError, match=words):
        recorded(folder)


def resolved(folder: Path) -> str:
    import json

    asked = simulation(folder)
    request = asked.request(folder / "campaign")
    plain = {"workflow": request.loaded.model.model_dump(mode="json"), "site": request.site.model_dump(mode="json")}
    return json.dumps(plain)
