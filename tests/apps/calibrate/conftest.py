"""A calibrated ensemble of two members, trained once for each module of tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ensemble_cases import LEVEL, publish_dataset, task_in

from gfm_pipeline.apps.calibrate.fit import calibrate
from gfm_pipeline.apps.calibrate.predict import predict
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.evaluation import (
    CalibrateResult,
    CalibrateSpec,
    MemberRef,
    PredictResult,
    PredictSpec,
)
from gfm_pipeline.core.contracts.task import RESULT_FILE
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, OptimiserSettings, TrainSpec
from gfm_pipeline.core.publish import read_manifest, write_record
from gfm_pipeline.core.records import read_record


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="module")
def datasets(root: Path) -> tuple[DatasetRef, ...]:
    return tuple(publish_dataset(root / "datasets", name) for name in ("wet", "metal"))


@pytest.fixture(scope="module")
def members(root: Path, datasets: tuple[DatasetRef, ...]) -> tuple[MemberRef, ...]:
    """Two members with different cutoffs, trained for a moment and predicted; the second one as a process."""
    found = []
    for name, algorithm, cutoff in (("m0", "SchNet", 3.0), ("m1", "PaiNN", 3.6)):
        spec = TrainSpec(
            task=name,
            model=ModelSettings(algorithm, hidden=16, layers=2, cutoff=cutoff),
            optimiser=OptimiserSettings(learning_rate=5e-3, batch_size=8, force_weight=5.0, warmup=10),
            datasets=datasets,
            seed=len(found),
            output=str(root / "checkpoints" / name),
            budget_graphs=1600,
            validate_every=1600,
        )
        assert train(spec, task_in(root / "train" / name))[0].checkpoint is not None
        request = PredictSpec(name, spec.output, datasets, str(root / "predictions" / name), batch_size=13)
        folder = root / "predict" / name
        if name == "m0":
            predict(request, task_in(folder))
        else:
            folder.mkdir(parents=True)
            write_record(folder / "spec.json", request)
            command = [sys.executable, "-m", "gfm_pipeline.apps.calibrate.predict", "spec.json"]
            subprocess.run(command, cwd=folder, check=True, timeout=120)
            result = read_record(PredictResult, folder / RESULT_FILE)
            assert result.digest == read_manifest(Path(result.output)).digest
        found.append(MemberRef(name, spec.output, request.output))
    return tuple(found)


@pytest.fixture(scope="module")
def result(root: Path, datasets: tuple[DatasetRef, ...], members: tuple[MemberRef, ...]) -> CalibrateResult:
    output = root / "stages" / "calibrate-abc" / "ensemble"
    return calibrate(CalibrateSpec(members, datasets, LEVEL, str(output), seed=1), task_in(root / "fit"))
