"""Named test sets are judged on their own, with the weights and the calibration of their dataset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ensemble_cases import LEVEL, REFERENCES, SIZES, labelled, task_in

from gfm_pipeline.apps.calibrate.fit import calibrate
from gfm_pipeline.apps.calibrate.predict import predict
from gfm_pipeline.apps.dataset import Dataset, write_bp
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import (
    EVALUATION_FILE,
    FIGURES_FILE,
    MODEL_CARD_FILE,
    CalibrateResult,
    CalibrateSpec,
    DatasetReport,
    MemberRef,
    PredictSpec,
)
from gfm_pipeline.core.contracts.training import DatasetRef, TestSetRef
from gfm_pipeline.core.publish import publishing, write_record
from gfm_pipeline.core.records import from_plain


def publish(folder: Path, of: DatasetRef, name: str, stretched: float) -> TestSetRef:
    """Publish the structures of a test split, stretched by a factor, as a test set."""
    dataset = Dataset.open(Path(of.path))
    columns = labelled(of.name, SIZES[Split.TEST], np.random.default_rng(5)) if stretched > 1 else None
    columns = dataset.columns(Split.TEST) if columns is None else replace(columns, pos=columns.pos * stretched)
    none = dict.fromkeys(map(str, Split), 0)
    facts = replace(
        dataset.statistics, name=name, n_structures={**none, "testset": len(columns)},
        n_atoms={**none, "testset": len(columns.numbers)}, n_groups={**none, "testset": len(columns)},
    )  # fmt: skip
    numbers = {8: -431.25, 1: -13.5}
    with publishing(folder / name, "test") as place:
        write_bp(place / f"{name}.bp", name, {Split.TEST: columns}, numbers)
        write_record(place / "statistics.json", facts)
    return TestSetRef(name, str(folder / name), of.name)


@pytest.fixture(scope="module")
def judged(root: Path, datasets: tuple[DatasetRef, ...], members: tuple[MemberRef, ...]) -> CalibrateResult:
    wet = datasets[0]
    sets = (publish(root / "sets", wet, "wet@same", 1.0), publish(root / "sets", wet, "wet@far", 1.6))
    again = []
    for member in members:
        request = PredictSpec(
            member.name, member.checkpoint, datasets, str(root / "sets" / member.name), test_sets=sets
        )
        predict(request, task_in(root / "with-sets" / member.name))
        again.append(replace(member, predictions=request.output))
    spec = CalibrateSpec(tuple(again), datasets, LEVEL, str(root / "with-sets" / "ensemble"), seed=1, test_sets=sets)
    return calibrate(spec, task_in(root / "with-sets" / "fit"))


def test_a_set_of_the_structures_of_the_test_split_gets_its_results(judged: CalibrateResult) -> None:
    assert set(judged.datasets) == set(REFERENCES)
    assert list(judged.judged) == [*judged.datasets, "wet@same", "wet@far"]
    same, split = judged.test_sets["wet@same"], judged.datasets["wet"]
    assert same.weights == split.weights
    for (_, one), (_, other) in zip(same.quantities(), split.quantities(), strict=True):
        assert one == other
    assert same.domain == split.domain
    assert same.difference == split.difference


def test_a_set_unlike_the_training_data_is_reported_on_its_own(judged: CalibrateResult) -> None:
    far, split = judged.test_sets["wet@far"], judged.datasets["wet"]
    assert far.n_structures == SIZES[Split.TEST]
    assert far.forces.mae > split.forces.mae
    assert far.domain is not None
    assert split.domain is not None
    assert far.domain.found > split.domain.found


def test_test_sets_change_neither_calibration_nor_results_of_the_test_split(
    judged: CalibrateResult, result: CalibrateResult
) -> None:
    for name, report in judged.datasets.items():  # up to the rounding of sums
        for (_, one), (_, other) in zip(report.quantities(), result.datasets[name].quantities(), strict=True):
            assert (one.mae, one.quantile, one.n) == pytest.approx((other.mae, other.quantile, other.n), rel=1e-3)
    assert "test_sets" not in json.loads((Path(result.output) / EVALUATION_FILE).read_text())


def test_the_ensemble_keeps_the_results_of_test_sets(judged: CalibrateResult) -> None:
    folder = Path(judged.output)
    found = json.loads((folder / EVALUATION_FILE).read_text())["test_sets"]
    assert from_plain(dict[str, DatasetReport], found) == judged.test_sets
    with np.load(folder / FIGURES_FILE) as figures:
        assert {"wet@same/forces/mean", "wet@far/energy/label"} <= set(figures.files)
    card = (folder / MODEL_CARD_FILE).read_text()
    assert card.count("| wet@far | energy, meV/atom |") >= 2
    assert "2 members, 2 datasets" in card
    assert {"wet@same", "wet@far"} <= set(json.loads((folder / "data.json").read_text()))
