"""Forces from a head of their own in the first part of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from training_cases import assert_same_state, lines, publish_dataset, run, small_spec

from gfm_pipeline.apps.train.checkpoint import load
from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.core.contracts.training import DatasetRef, ForceHead, ModelSettings, TrainSpec
from gfm_pipeline.core.contracts.training_result import TrainResult


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRef, ...]:
    folder = tmp_path_factory.mktemp("data")
    return tuple(publish_dataset(folder, name, seed, 1.0, (48, 12, 12)) for seed, name in enumerate("ab"))


def spec_of(datasets: tuple[DatasetRef, ...], folder: Path, share: float = 0.5, algorithm: str = "PaiNN") -> TrainSpec:
    spec = small_spec(datasets, folder / "out")
    return replace(
        spec,
        model=ModelSettings(algorithm, hidden=8, layers=2, cutoff=3.0),
        optimiser=replace(spec.optimiser, direct_share=share, warmup=2),
        budget_graphs=160,
        validate_every=40,
    )


@pytest.mark.parametrize("algorithm", ["PaiNN", "SchNet"])
def test_forces_come_from_the_head_first_and_then_from_the_energy(
    datasets: tuple[DatasetRef, ...], tmp_path: Path, algorithm: str
) -> None:
    trainer = prepare(spec_of(datasets, tmp_path, algorithm=algorithm))
    assert trainer.direct is not None
    seen = []
    for _ in range(20):
        trainer.step()
        gradients = [p.grad for p in trainer.direct.head.parameters() if p.grad is not None]
        seen.append((trainer.directly, any(bool((one != 0).any()) for one in gradients)))
    assert seen == [(True, True)] * 10 + [(False, False)] * 10
    trainer.close()


def test_validations_are_of_the_forces_that_are_trained(datasets: tuple[DatasetRef, ...], tmp_path: Path) -> None:
    trainer = prepare(spec_of(datasets, tmp_path))
    for _ in range(8):
        trainer.step()
    directly = trainer.validate(None)
    assert trainer.state.recent
    trainer.state = replace(trainer.state, direct_until=0)
    assert trainer.validate(None).errors["a"].force_mae != directly.errors["a"].force_mae
    trainer.state = replace(trainer.state, direct_until=trainer.state.graphs)
    trainer.step()
    assert (trainer.state.direct_until, trainer.state.recent, trainer.state.best) == (0, (), None)
    trainer.close()


@pytest.mark.parametrize("looks", [7, 15])  # within the part with direct forces, and after it
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    datasets: tuple[DatasetRef, ...], tmp_path: Path, looks: int
) -> None:
    whole = spec_of(datasets, tmp_path / "whole")
    assert isinstance(run(whole, tmp_path / "whole-task"), TrainResult)
    parts = spec_of(datasets, tmp_path / "parts")
    first = run(parts, tmp_path / "first", looks)
    assert isinstance(first, Path)
    second = replace(parts, previous_attempts=(str(first),))
    assert isinstance(run(second, tmp_path / "second"), TrainResult)
    assert_same_state(whole.output, parts.output)
    assert lines(tmp_path / "first", tmp_path / "second") == lines(tmp_path / "whole-task")
    assert not any("direct" in name for name in load(Path(parts.output)).tensors.weights)


def test_models_with_direct_forces_have_no_such_part(datasets: tuple[DatasetRef, ...], tmp_path: Path) -> None:
    spec = spec_of(datasets, tmp_path)
    trainer = prepare(replace(spec, model=replace(spec.model, force_head=ForceHead.DIRECT)))
    assert trainer.direct is None  # all of the training has direct forces
    trainer.close()
