"""What training computes in: each precision trains, goes on bit for bit, and is no further off than it may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_cases import assert_same_state, publish_dataset, small_spec

from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.checkpoint import load, load_model
from gfm_pipeline.apps.train.device import CPU, set_precision
from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.algorithms import BUILT_IN
from gfm_pipeline.core.contracts.optimisation.settings import Precision
from gfm_pipeline.core.contracts.training import TrainSpec
from gfm_pipeline.core.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = sorted(name for name, about in BUILT_IN.items() if not about.missing)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> TrainSpec:
    folder = tmp_path_factory.mktemp("data")
    spec = small_spec((publish_dataset(folder, "soft", 0, 1.0, (32, 8, 8)),), folder / "output")
    return replace(spec, budget_graphs=48, validate_every=24, model=replace(spec.model, hidden=8, layers=1))


def with_precision(spec: TrainSpec, precision: Precision) -> TrainSpec:
    return replace(spec, optimiser=replace(spec.optimiser, precision=precision))


def forces(spec: TrainSpec, precision: Precision) -> torch.Tensor:
    trainer = prepare(with_precision(spec, precision))
    seen = []
    trainer.model.register_forward_hook(lambda _model, _given, out: seen.append(out.forces.detach().double()))
    trainer.step()
    assert trainer.weights.dtype == (torch.float64 if precision is Precision.FP64 else torch.float32)
    trainer.validate(None)
    return seen[0]


@pytest.mark.parametrize("algorithm", NAMES)
def test_every_algorithm_trains_in_every_precision(given, algorithm):
    spec = replace(given, model=replace(given.model, algorithm=algorithm))
    exact = forces(spec, Precision.FP64)
    off = {p: float((forces(spec, p) - exact).norm() / exact.norm()) for p in (Precision.FP32, Precision.BF16)}
    assert off[Precision.FP32] < 1e-4
    assert 1e-5 < off[Precision.BF16] < 0.5


@pytest.mark.parametrize("precision", [Precision.FP64, Precision.BF16])
def test_a_rung_continued_is_the_longer_rung(given, tmp_path, precision):
    found = []
    for name, graphs, start in (("whole", 48, None), ("first", 24, None), ("second", 48, "first")):
        folder = tmp_path / name
        folder.mkdir()
        checkpoint = None if start is None else str(tmp_path / f"{start}.out")
        spec = replace(given, budget_graphs=graphs, checkpoint=checkpoint, output=f"{folder}.out")
        found.append(Path(str(train(with_precision(spec, precision), Task(folder))[0].checkpoint)))
    assert_same_state(found[0], found[2])
    weights = load(found[0]).tensors.weights.values()
    assert {w.dtype for w in weights} == {torch.float64 if precision is Precision.FP64 else torch.float32}
    assert load_model(found[0]).potential.dtype == torch.float32


def test_tf32_is_off_unless_asked_for_and_what_a_device_has_not_is_said(monkeypatch):
    torch.set_float32_matmul_precision("high")
    set_precision(Precision.FP32, CPU)
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.warns(UserWarning, match="The device cpu has no tf32: training computes in fp32"):
        assert set_precision(Precision.TF32, CPU) is Precision.FP32
    assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="has no bf16"):
        set_precision(Precision.BF16, torch.device("cuda"))
    assert set_precision(Precision.TF32, torch.device("cuda")) is Precision.TF32
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")
