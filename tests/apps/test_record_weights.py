"""Weights that records state: read, stored with the dataset, used by the loss, and unseen by validations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ingest_cases import run_all
from training_cases import publish_dataset, small_spec

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import PassedOver, Record
from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.core.contracts.data import RecordWeights, SourceSettings, Split
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.contracts.targets import STRESS
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, OptimiserSettings, TrainSpec

SPEC = 'stress="1 0 0 0 1 0 0 0 1"'


def write(path: Path, comments: list[str]) -> SourceSettings:
    """Write frames of a stretched copper pair, one for each comment."""
    lines = []
    for k, comment in enumerate(comments):
        lines += ["2", f"Properties=species:S:1:pos:R:3:forces:R:3 run=r{k} energy={-1 - 0.1 * k} {comment}"]
        lines += [f"Cu 0 0 0 0 0 {0.1 * k}", f"Cu 0 0 {2.2 + 0.02 * k} 0 0 {-0.1 * k}"]
    path.write_text("\n".join(lines) + "\n")
    return SourceSettings("x", "ase", (str(path),), group_key="run")


def read(source: SourceSettings) -> list[object]:
    return list(get_reader(source.reader).read(source, 0, 1, 0))


def test_the_weight_of_a_label_is_that_of_its_record_times_its_own(tmp_path: Path) -> None:
    comments = [
        f"{SPEC} config_weight=2 config_energy_weight=3 config_forces_weight=0.5 config_stress_weight=0",
        f"{SPEC} config_virials_weight=4",
        f"{SPEC} force_weight=0",
        f"{SPEC} config_weight=1",
    ]
    records = read(replace(write(tmp_path / "a.xyz", comments), targets=(STRESS,)))
    assert [r.weights for r in records if isinstance(r, Record)] == [
        {"energy": 6.0, "forces": 1.0, "stress": 0.0}, {"stress": 4.0}, {"forces": 0.0}, {},
    ]  # fmt: skip
    assert [r.forces is None for r in records if isinstance(r, Record)] == [False, False, True, False]
    assert [len(r.labels) for r in records if isinstance(r, Record)] == [0, 1, 1, 1]


def test_preview_says_which_weights_it_found_and_used(tmp_path: Path) -> None:
    source = write(tmp_path / "a.xyz", ["config_weight=2 config_force_weight=0.5 weight=63.5 vweight=2"] * 6)
    seen = preview(PreviewSpec(source, 0))
    uses = {key.key: key.use for key in seen.labels.keys if "weight" in key.key}
    assert uses == {
        "config_weight": "weight of the record in the loss",
        "config_force_weight": "weight of forces in the loss",
        "weight": "weight of the record in the loss",
        "vweight": "not used",
    }
    assert "config_force_weight is the weight of forces in the loss. (6 of 6 records)" in seen.conversions
    assert any(text.startswith("weight was read as a weight in the loss") for text in seen.warnings)
    ignored = preview(PreviewSpec(replace(source, record_weights=RecordWeights.IGNORE), 0))
    assert {key.use for key in ignored.labels.keys if "weight" in key.key} == {"not used"}
    assert all(not record.weights for record in read(replace(source, record_weights=RecordWeights.IGNORE)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "heavy", "1e30", "T"])
def test_a_value_that_is_no_weight_quarantines_its_record_by_name(tmp_path: Path, value: str) -> None:
    source = write(tmp_path / "a.xyz", [f"config_energy_weight={value}", *["config_energy_weight=2"] * 6])
    (removed,) = preview(PreviewSpec(source, 0)).removed
    assert (removed.reason, removed.records) == ("unusable weight", 1)
    assert "record 0: unusable weight: config_energy_weight is " in removed.example
    ignored = replace(source, record_weights=RecordWeights.IGNORE)
    assert preview(PreviewSpec(ignored, 0)).removed == ()


def test_weights_of_zero_leave_records_out_unless_ignored(tmp_path: Path) -> None:
    source = write(tmp_path / "a.xyz", ["config_weight=0", "config_energy_weight=0", "config_forces_weight=0"])
    assert [type(item) for item in read(source)] == [PassedOver, PassedOver, Record]
    kept = read(replace(source, record_weights=RecordWeights.IGNORE))
    assert [record.forces is None for record in kept] == [False] * 3  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A dataset of two shards, of which only the second has weights, and the weights of energies by origin."""
    folder = tmp_path_factory.mktemp("weighted")
    own = [1.0 if k % 2 == 0 else 0.5 + 0.1 * k for k in range(40)]
    comments = [f"config_energy_weight={w}" + (" config_weight=2" if k % 4 == 1 else "") for k, w in enumerate(own)]
    source = replace(write(folder / "a.xyz", comments), shards=2)
    found = run_all(folder, source)
    return Path(found.output), [w * (2 if k % 4 == 1 else 1) for k, w in enumerate(own)]


def test_a_dataset_keeps_the_weights_of_its_records(weighted: tuple[Path, list[float]]) -> None:
    path, energy = weighted
    dataset = Dataset.open(path)
    for split in Split:
        columns = dataset.columns(split)
        assert set(columns.weights) == {"energy", "forces"}
        np.testing.assert_allclose(columns.weights["energy"], np.array(energy)[columns.origin], rtol=1e-6)
        np.testing.assert_array_equal(columns.weights["forces"], 1.0 + (columns.origin % 4 == 1))
        some = dataset.columns(split, np.array([0, 2, 3]))  # read in runs
        np.testing.assert_array_equal(some.weights["energy"], columns.weights["energy"][[0, 2, 3]])


def test_a_dataset_without_weights_has_no_column_for_them(tmp_path: Path) -> None:
    found = run_all(tmp_path, write(tmp_path / "a.xyz", ["config_weight=1"] * 40))
    assert Dataset.open(Path(found.output)).columns(Split.TRAIN).weights == {}


def test_the_gradient_is_that_of_the_weighted_loss(weighted: tuple[Path, list[float]], tmp_path: Path) -> None:
    path, _ = weighted
    plain = publish_dataset(tmp_path, "plain", 1, 1.0, (20, 6, 6))
    spec = TrainSpec(
        task="t",
        model=ModelSettings("SchNet", hidden=8, layers=1, cutoff=3.5),
        optimiser=OptimiserSettings(batch_size=16, force_weight=0.7, loss="l2"),
        datasets=(DatasetRef("x", str(path)), plain),  # the second has no weights
        seed=3,
        output=str(tmp_path / "out"),
        budget_graphs=64,
        validate_every=64,
        micro_batch=5,
    )
    trainer = prepare(spec)
    parts, counts = trainer.loader.local_batches(0)
    total = torch.zeros(())
    seen: set[float] = set()
    for batch in parts:
        out = trainer.model(batch, training=True)
        seen |= set(batch.weights.get("energy", torch.ones(1)).tolist())
        scales = {name: torch.tensor(of)[batch.dataset] for name, of in trainer.card.scales().items()}
        weight = {name: batch.weights.get(name, torch.ones(len(batch.natoms))) for name in scales}
        energy = ((out.energy - batch.labels["energy"]) / batch.natoms / scales["energy"]) ** 2
        force = (((out.forces - batch.labels["forces"]) / scales["forces"][batch.graph][:, None]) ** 2).mean(1)
        total = total + (weight["energy"] * energy).sum() / counts["energy"]
        total = total + 0.7 * (weight["forces"][batch.graph] * force).sum() / counts["forces"]
    expected = torch.autograd.grad(total, trainer.parameters, allow_unused=True)
    trainer.weights.grad.zero_()  # type: ignore[union-attr]
    trainer._accumulate()
    assert len(seen) > 4
    for parameter, gradient in zip(trainer.parameters, expected, strict=True):
        found = parameter.grad
        assert found is not None
        torch.testing.assert_close(found, torch.zeros_like(found) if gradient is None else gradient)
    trainer.close()


def test_validations_do_not_see_the_weights(weighted: tuple[Path, list[float]], tmp_path: Path) -> None:
    path, _ = weighted
    trainer = prepare(small_spec((DatasetRef("x", str(path)),), tmp_path / "out"))
    (table,) = trainer.splits.validation.values()
    assert (table.weights["energy"] != 1).any()
    heavy = trainer.validate(None)
    trainer.splits = replace(trainer.splits, validation={"x": replace(table, weights={})})
    assert trainer.validate(None) == heavy
    trainer.close()
