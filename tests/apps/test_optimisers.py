"""Optimisers and schedules: what each step is, exact resumption of each, and parts of batches."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import assert_same_state, publish_dataset, small_spec
from workflow_cases import workflow

from gfm_pipeline.apps.runtime.program import StopRequested, Task
from gfm_pipeline.apps.train.checkpoint import load
from gfm_pipeline.apps.train.flat_parameters import flat_parts, flatten
from gfm_pipeline.apps.train.optimisers.base import Optimiser, build_optimiser
from gfm_pipeline.apps.train.optimisers.muon import orthogonal
from gfm_pipeline.apps.train.schedule import Cosine, Progress, ReduceOnPlateau, build_schedule
from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.hyperparameters import Group
from gfm_pipeline.core.contracts.optimisation.optimisers import BUILT_IN as OPTIMISERS
from gfm_pipeline.core.contracts.optimisation.schedules import BUILT_IN as SCHEDULES
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings, Weighting
from gfm_pipeline.core.contracts.training import HYPERPARAMETERS, TrainSpec, settings_of
from gfm_pipeline.core.errors import ConfigError, IntegrityError
from gfm_pipeline.core.records import from_plain, to_plain
from gfm_pipeline.models import ModelSpec, Potential

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> TrainSpec:
    folder = tmp_path_factory.mktemp("data")
    spec = small_spec((publish_dataset(folder, "soft", 0, 1.0, (32, 8, 8)),), folder / "output")
    return replace(spec, budget_graphs=96, validate_every=16, model=replace(spec.model, hidden=8, layers=1))


class StopAfter(Task):
    """A task that is asked to stop after some steps; None: never."""

    steps: int | None = None

    @property
    def stop_requested(self) -> bool:
        if self.steps is not None:
            self.steps -= 1
        return self.steps is not None and self.steps < 0


def run(spec: TrainSpec, folder: Path, steps: int | None = None) -> Path:
    """Train in ``folder`` and return the checkpoint, or the folder of an attempt that was stopped."""
    folder.mkdir(parents=True)
    task = StopAfter(folder)
    task.steps = steps
    try:
        return Path(str(train(replace(spec, output=str(folder.with_suffix(".out"))), task)[0].checkpoint))
    except StopRequested:
        return folder


def built(name: str, **settings: float) -> tuple[torch.nn.Module, Optimiser]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.SiLU(), torch.nn.Linear(7, 3, bias=False))
    vector = flatten(model, gradients=True)
    return model, build_optimiser(vector, flat_parts(model), OptimiserSettings(optimiser=name, **settings))


# --- each of them


PAIRS = [(name, list(SCHEDULES)[k % len(SCHEDULES)]) for k, name in enumerate(OPTIMISERS)]  # each of both at least once


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_resuming_is_bit_for_bit_and_a_longer_budget_goes_on(given, tmp_path, name, schedule):
    chosen = replace(given.optimiser, optimiser=name, schedule=schedule, plateau_patience=1, learning_rate=2e-3)
    spec = replace(given, optimiser=chosen, horizon=128)
    whole = run(spec, tmp_path / "whole")
    attempt = run(spec, tmp_path / "attempt", steps=7)
    assert 0 < load(sorted((attempt / "checkpoints").iterdir())[-1]).state.steps < 12
    assert_same_state(whole, run(replace(spec, previous_attempts=(str(attempt),)), tmp_path / "rest"))
    rung = run(replace(spec, budget_graphs=48), tmp_path / "rung")
    assert_same_state(whole, run(replace(spec, checkpoint=str(rung)), tmp_path / "next"))
    found = load(whole)
    assert (found.card.optimiser.optimiser, found.state.steps) == (name, 12)
    assert any(not torch.equal(found.tensors.ema[k], found.tensors.weights[k]) for k in found.tensors.ema)


@pytest.mark.parametrize(("loss", "weighting"), [("nll", "learned"), ("huber", "fixed")])
def test_what_a_loss_learns_and_weights_that_change_are_continued_bit_for_bit(given, tmp_path, loss, weighting):
    chosen = {"losses": {"forces": loss}, "final_weights": {"forces": 9.0, "energy.soft": 3.0}}
    settings = replace(given.optimiser, loss="l1", weighting=Weighting(weighting), **chosen)
    spec = replace(given, optimiser=settings)
    whole = run(spec, tmp_path / "whole")
    attempt = run(spec, tmp_path / "attempt", steps=7)
    rest = run(replace(spec, previous_attempts=(str(attempt),)), tmp_path / "rest")
    assert_same_state(whole, rest)
    assert load(whole).tensors.loss.keys() == (
        {"log_loss.energy", "log_loss.forces", "log_scale.forces"} if weighting == "learned" else set()
    )
    for name, value in load(whole).tensors.loss.items():
        assert torch.equal(value, load(rest).tensors.loss[name])
        assert value.any(), name


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_fits_a_line(name):
    model, optimiser = built(name, weight_decay=0.0)
    x, y = torch.randn(64, 5), torch.randn(64, 5) @ torch.randn(5, 3)
    y = x @ torch.linalg.lstsq(x, y).solution
    first = float(((model(x) - y) ** 2).mean().detach())
    for _ in range(300):
        optimiser.vector.grad.zero_()
        ((model(x) - y) ** 2).mean().backward(inputs=list(model.parameters()))
        optimiser.step(0.02)
    if optimiser.averaged is not None:
        optimiser.vector.data.copy_(optimiser.averaged)
    assert float(((model(x) - y) ** 2).mean().detach()) < 0.1 * first


def test_sgd_and_schedule_free_steps_are_those_of_the_papers():
    for name, decay in (("sgd", 0.0), ("schedule-free-adamw", 0.1)):
        model, ours = built(name, weight_decay=decay)
        plain = copy.deepcopy(model)
        parameters = list(plain.parameters())
        z, x, v = ([p.detach().clone().double() for p in parameters] for _ in range(3))
        v = [0.0 * t for t in v]
        data = torch.randn(11, 5)
        for t in range(1, 5):
            ours.vector.grad.zero_()
            (model(data) ** 2).sum().backward(inputs=list(model.parameters()))
            ours.step(0.01)
            plain.zero_grad()
            (plain(data) ** 2).sum().backward()
            for k, p in enumerate(parameters):
                g, y = p.grad.double(), p.detach().double()
                if name == "sgd":
                    v[k] = 0.9 * v[k] + g
                    p.data.copy_(y - 0.01 * v[k])
                    continue
                v[k] = 0.999 * v[k] + 0.001 * g**2
                z[k] = z[k] - 0.01 * (g / ((v[k] / (1 - 0.999**t)).sqrt() + 1e-8) + 0.1 * y)
                x[k] = (1 - 1 / t) * x[k] + z[k] / t
                p.data.copy_(0.1 * z[k] + 0.9 * x[k])
        for p, q in zip(model.parameters(), parameters, strict=True):
            torch.testing.assert_close(p, q, rtol=2e-4, atol=1e-5)


def test_muon_steps_are_orthogonal_for_matrices_and_those_of_adamw_for_the_rest():
    torch.manual_seed(0)
    for shape in ((7, 5), (5, 7), (6, 6)):
        sizes = torch.linalg.svdvals(orthogonal(torch.randn(3, *shape)))
        assert 0.6 < float(sizes.min()) <= float(sizes.max()) < 1.3
    (model, muon), (other, adamw) = built("muon", weight_decay=0.0), built("adamw", weight_decay=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    gradient = torch.randn_like(muon.vector)
    for optimiser in (muon, adamw):
        optimiser.vector.grad.copy_(gradient)
        optimiser.step(0.01)
    weight, bias, _ = model.parameters()
    torch.testing.assert_close(bias, list(other.parameters())[1])
    step = (weight - before[0]).detach() / 0.01
    assert 0.5 < float(step.square().mean().sqrt()) / (0.2 * (7 / 7) ** 0.5) < 1.2
    potential = Potential(ModelSpec("SchNet", 8, 1, 3.0))
    parts = dict(zip((n for n, _ in potential.named_parameters()), flat_parts(potential), strict=True))
    assert not parts["representation.embedding.weight"].matrix
    assert any(part.matrix for part in parts.values())


def test_schedules_do_what_they_say():
    settings = OptimiserSettings(final_rate=0.1, plateau_factor=0.5, plateau_patience=2)
    cosine = Cosine(settings)
    assert [cosine.share(Progress(g, 100)) for g in (0, 50, 100, 200)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert cosine.share(Progress(50)) == 1.0
    plateau, memory, shares = ReduceOnPlateau(settings), {}, []
    for score in (1.0, 0.9, 0.95, 0.91, 0.89, 0.9, 0.9, 0.9, 0.9, *[1.0] * 20):
        memory = plateau.validated(memory, score)
        shares.append(plateau.share(Progress(0, None, memory)))
    assert shares[:9] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert shares[-1] == 0.1
    for name in SCHEDULES:
        assert build_schedule(replace(settings, schedule=name)).share(Progress(0, 100)) == 1.0


@pytest.mark.parametrize("ranks", [1, 2])
def test_accumulated_gradients_are_those_of_the_batch(given, ranks):
    from gfm_pipeline.apps.train.batch_loader import BatchLoader, part_size

    whole = prepare(given)
    value = float(whole._accumulate())
    parted = prepare(replace(given, optimiser=replace(given.optimiser, accumulation=3)))
    assert len(parted.loader.local_batches(0)[0]) == 3
    total, gradient = 0.0, torch.zeros_like(whole.weights)
    size = part_size(parted.settings, ranks, None)
    assert (size, part_size(parted.settings, ranks, 1)) == (3 if ranks == 1 else 2, 1)
    for rank in range(ranks):
        parted.weights.grad.zero_()
        parted.loader = BatchLoader(parted.splits.train, parted.loader._sampler, 8, rank, ranks, size)
        total += float(parted._accumulate())
        gradient += parted.weights.grad
    assert total == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(gradient, whole.weights.grad, rtol=1e-3, atol=1e-5)


# --- declared


def test_each_description_names_a_class_and_hyperparameters_that_there_are():
    for name, about in OPTIMISERS.items():
        _, optimiser = built(name)
        assert type(optimiser).__name__ == about.module.partition(":")[2]
        assert about.summary
        assert set(about.reads) <= set(HYPERPARAMETERS)
    of_schedules = {name for name, declared in HYPERPARAMETERS.items() if declared.group is Group.SCHEDULE}
    assert {read for about in SCHEDULES.values() for read in about.reads} | {
        "schedule",
        "warmup",
        "direct_share",
    } == of_schedules


def test_descriptions_are_read_without_torch():
    code = (
        "import sys; from gfm_pipeline.core.contracts.optimisation import losses, optimisers, schedules;"
        "assert not {'torch', 'numpy', 'gfm_pipeline.apps'} & set(sys.modules); print(*optimisers.BUILT_IN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(OPTIMISERS)


def test_a_state_of_another_optimiser_and_names_that_are_unknown_are_refused(given, tmp_path):
    rung = run(given, tmp_path / "rung")
    other = replace(given, checkpoint=str(rung), budget_graphs=200)
    with pytest.raises(IntegrityError, match="its optimiser's state is not that of sgd"):
        prepare(replace(other, optimiser=replace(given.optimiser, optimiser="sgd")))
    with pytest.raises(ConfigError, match="no optimiser 'moun'") as caught:
        prepare(replace(given, optimiser=replace(given.optimiser, optimiser="moun")))
    assert "muon" in caught.value.hint
    with pytest.raises(ConfigError, match="no schedule 'cosin'"):
        prepare(replace(given, optimiser=replace(given.optimiser, schedule="cosin")))


def test_losses_and_weights_of_targets_are_searched_like_everything_else():
    space = workflow(
        search__space__per_target={"energy": {"loss": ["l1", "huber"], "final_weight": {"low": 1, "high": 100}}},
        search__space__per_dataset={"alloys": {"forces": {"weight": [0.5, 2.0]}}},
    ).search.space.compile()
    rows = space.sample(20, np.random.default_rng(0))
    found = [settings_of(space.settings(row))[1] for row in rows]
    assert {one.losses["energy"] for one in found} == {"l1", "huber"}
    assert {one.weights["forces.alloys"] for one in found} == {0.5, 2.0}
    assert min(one.final_weights["energy"] for one in found) < 20 < 80 < max(o.final_weights["energy"] for o in found)
    assert [space.row(space.settings(row)) for row in rows] == rows
    assert from_plain(OptimiserSettings, to_plain(found[0])) == found[0]
