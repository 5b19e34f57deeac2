"""One model with a shallow ensemble has a calibrated spread of energies and forces, in its folder and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ensemble_cases import LEVEL, task_in

from gfm_pipeline.apps.calibrate.fit import calibrate
from gfm_pipeline.apps.calibrate.predict import predict
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.export import export
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import CalibrateSpec, MemberRef, PredictSpec
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, OptimiserSettings, TrainSpec


def test_one_member_has_a_spread_of_energies_and_forces(datasets: tuple[DatasetRef, ...], tmp_path: Path) -> None:
    checkpoint, predictions = str(tmp_path / "checkpoint"), tmp_path / "predictions"
    spec = TrainSpec(
        task="m0",
        model=ModelSettings("SchNet", hidden=8, layers=1, cutoff=3.0, shallow_ensemble=4),
        optimiser=OptimiserSettings(learning_rate=5e-3, batch_size=8, force_weight=5.0, warmup=10),
        datasets=datasets,
        seed=0,
        output=checkpoint,
        budget_graphs=400,
        validate_every=400,
    )
    train(spec, task_in(tmp_path / "train"))
    predict(PredictSpec("m0", checkpoint, datasets, str(predictions)), task_in(tmp_path / "predict"))
    member, folder, file = MemberRef("m0", checkpoint, str(predictions)), tmp_path / "ensemble", tmp_path / "model.gfm"
    report = calibrate(CalibrateSpec((member,), datasets, LEVEL, str(folder), 0), task_in(tmp_path / "fit"))
    for quantity in (report.datasets["wet"].energy, report.datasets["wet"].forces):
        assert quantity.rank_correlation != 0.0  # of a single member without it: no spread to rank
        assert quantity.coverage_calibrated == pytest.approx(LEVEL, abs=0.25)
    export(folder, file)
    columns = Dataset.open(Path(datasets[0].path)).columns(Split.TEST)
    with np.load(predictions / "wet-testset.npz") as arrays:
        energy, forces = arrays["spread.energy"], arrays["spread.forces"]
    assert energy.min() > 0.0
    for path in (folder, file):
        predictor = Predictor(open_ensemble(path), "wet")
        for g in range(3):
            rows = slice(columns.offsets[g], columns.offsets[g + 1])
            (found,) = predictor.predict([Atoms(columns.numbers[rows], columns.pos[rows])])
            assert found["energy_std"] == pytest.approx(energy[g], rel=1e-3)
            np.testing.assert_allclose(found["forces_std"], forces[rows], rtol=2e-3, atol=1e-5)
            assert (found["forces_interval"] > 0.0).all()
