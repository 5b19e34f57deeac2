"""The campaign of examples/multitask.yaml, with little training: six real datasets with different labels, one model."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import runs
from ase.io import read

from gfm_pipeline import Campaign

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "multitask.py"
LITTLE = (
    "search.rungs=[200]", "search.candidates=1", "search.space.hidden=8", "converge.members=1",
    "converge.check_every=400", "converge.patience=1", "converge.max_graphs=800", "site.compile_training=never",
)  # fmt: skip
LABELS = {  # in addition to energies
    "acac": {"forces"}, "ethanol": {"forces", "oh_distance"}, "bpa": {"forces"}, "dimers": {"forces", "charges"},
    "inp": {"forces", "stress"}, "oxides": set(),
}  # fmt: skip


@pytest.mark.long
def test_six_datasets_of_five_levels_of_theory_go_through_all_stages(tmp_path, real_data) -> None:
    runpy.run_path(str(BENCHMARK))["prepare"](tmp_path, real_data)
    options = [part for one in LITTLE for part in ("--set", one)]
    runs.finish(tmp_path, "run", "multitask.yaml", "--site", "local", *options)
    campaign = Campaign(tmp_path / "campaigns" / "multitask")
    view = campaign.status()
    assert [stage.status for stage in view.stages] == ["done"] * 4
    assert view.calibration is not None
    found = view.calibration.datasets
    assert set(found) == set(LABELS)
    for name, report in found.items():
        learned = {target.name for target, quantity in report.quantities() if quantity.n}
        assert learned == {"energy"} | LABELS[name], name
    assert found["acac"].forces.mae < found["acac"].forces.null_mae
    atoms = read(tmp_path / "data" / "acac" / "train_300K.xyz", "0")
    atoms.calc = campaign.calculator("acac")
    assert np.isfinite(atoms.get_forces()).all()
