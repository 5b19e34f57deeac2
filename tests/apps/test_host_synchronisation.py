"""A training step never waits for the device: it reads no number of a tensor on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_cases import publish_dataset, small_spec

from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.flat_parameters import clip
from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.apps.train.task import _save_here, train
from gfm_pipeline.apps.train.trainer import Diverged
from gfm_pipeline.core.contracts.optimisation.optimisers import OPTIMISERS
from gfm_pipeline.core.contracts.optimisation.settings import Weighting
from gfm_pipeline.core.contracts.task import ExitCode
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, TrainSpec

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.", "masked_select", "unique")


class HostReads(TorchDispatchMode):
    """Notes every operation whose result the host must wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func.name().removeprefix("aten::")
        if any(name.startswith(one.rstrip(".")) for one in WAITING):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRef, ...]:
    folder = tmp_path_factory.mktemp("data")
    return tuple(publish_dataset(folder, name, seed, 1.0, (24, 6, 6)) for seed, name in enumerate("ab"))


def spec_of(datasets: tuple[DatasetRef, ...], folder: Path, algorithm: str = "SchNet", **changes: Any) -> TrainSpec:
    spec = small_spec(datasets, folder / "out")
    model = ModelSettings(algorithm, hidden=8, layers=2, cutoff=3.0)
    return replace(spec, model=model, optimiser=replace(spec.optimiser, **changes))


def reads_in_a_step(spec: TrainSpec) -> list[str]:
    trainer = prepare(spec)
    trainer.step()
    with HostReads() as reads:
        trainer.step()
    trainer.close()
    return reads.seen


@pytest.mark.parametrize("algorithm", ["SchNet", "EGNN", "PaiNN", "PNAPlus", "DimeNet++", "MACE"])
def test_a_step_reads_no_number(datasets: tuple[DatasetRef, ...], tmp_path: Path, algorithm: str) -> None:
    assert reads_in_a_step(spec_of(datasets, tmp_path, algorithm, accumulation=2)) == []


@pytest.mark.parametrize("optimiser", sorted(OPTIMISERS.names()))
def test_no_optimiser_reads_a_number(datasets: tuple[DatasetRef, ...], tmp_path: Path, optimiser: str) -> None:
    learned = {"optimiser": optimiser, "weighting": Weighting.LEARNED, "loss": "nll"}
    assert reads_in_a_step(spec_of(datasets, tmp_path, **learned)) == []


def test_the_test_sees_reads() -> None:
    def looks(read: Callable[[torch.Tensor], object]) -> list[str]:
        with HostReads() as reads:
            read(torch.ones(3))
        return reads.seen

    for read in (lambda t: float(t[0]), lambda t: t.nonzero(), lambda t: torch.equal(t, t + 1)):
        assert looks(read)
    assert looks(lambda t: t.sum() + clip(t, 1.0)) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU of CUDA or ROCm")
def test_a_step_on_a_gpu_does_not_synchronise(datasets: tuple[DatasetRef, ...], tmp_path: Path) -> None:
    trainer = prepare(spec_of(datasets, tmp_path, "PaiNN"), device=torch.device("cuda"))
    trainer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        trainer.close()


def test_a_training_that_diverged_is_found_and_not_saved(datasets: tuple[DatasetRef, ...], tmp_path: Path) -> None:
    trainer = prepare(spec_of(datasets, tmp_path))
    trainer.step()
    assert (trainer.train_loss or 0.0) > 0.0
    with torch.no_grad():
        trainer.weights[0] = torch.inf
    trainer.step()
    trainer.step()
    with pytest.raises(Diverged, match=r"The loss is nan and its gradient nan at step 3, after 24 graphs"):
        _save_here(Task(tmp_path), trainer)
    assert not list(tmp_path.glob("checkpoints/*"))
    trainer.close()


def test_a_program_that_diverges_says_so(datasets: tuple[DatasetRef, ...], tmp_path: Path) -> None:
    spec = spec_of(datasets, tmp_path, learning_rate=1e30, warmup=0)
    result, code = train(spec, Task(tmp_path))
    assert (code, "gradient" in result.message) == (ExitCode.DIVERGED, True)
