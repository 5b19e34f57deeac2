"""Predictions of many structures as a stage: in parts, resumed, and in the campaign's status, report and checks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import runs
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from deploy_cases import emt_crystals
from old_campaigns import copy_of

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.cli.main import invoke

OF_WORKFLOW = ["w.yaml", "--campaign", "campaign"]
SECTION = """\
predict:
  structures: {files: pool/*.extxyz, group_key: config_type, shards: 3}
  evaluate: true
"""


def parts_of(folder: Path, suffix: str = "extxyz") -> list[Path]:
    return sorted(folder.glob(f"campaign/stages/predict-*/predictions/part-*/predictions.{suffix}"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write(folder / "many.extxyz", emt_crystals(7))
    write(folder / "odd.extxyz", [bulk("Fe"), *emt_crystals(2)])
    return folder


@pytest.fixture
def finished(tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy_of("campaign-v1", tmp_path / "finished")
    (folder / "pool").symlink_to(pool)
    monkeypatch.chdir(folder)
    return folder


def with_section(folder: Path, section: str) -> int:
    """Add a section to the workflow; return the number of its first line."""
    path = folder / "w.yaml"
    text = path.read_text()
    path.write_text(text + section)
    return len(text.splitlines()) + 1


def test_a_finished_campaign_predicts_in_parts(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_section(finished, SECTION)
    assert invoke(["plan", *OF_WORKFLOW, "--json"]) == 0
    assert "predictions of 2 files in 3 parts" in capsys.readouterr().out
    runs.finish(finished, "run", *OF_WORKFLOW)
    assert "forces MAE" in (finished / "driver.log").read_text()
    parts = parts_of(finished)
    assert len(parts) == 3
    found = [atoms for part in parts for atoms in read(part, ":")]
    assert len(found) == 9
    calculator = GFMCalculator(finished / "campaign")
    for atoms in found:
        (alone,) = calculator.predict([Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)])
        np.testing.assert_allclose(atoms.calc.results["forces"], alone["forces"], atol=1e-5)
        np.testing.assert_allclose(atoms.info["energy_interval"], alone["energy_interval"], rtol=1e-4)
    (summary,) = finished.glob("campaign/stages/predict-*/summary")
    facts = json.loads((summary / "summary.json").read_text())
    assert (facts["structures"], facts["n_refused"], facts["unlabelled"]) == (9, 1, 0)
    ((file, record, reason),) = list(csv.reader((summary / "refused.csv").read_text().splitlines()))[1:]
    assert (Path(file).name, record) == ("odd.extxyz", "0")
    assert "Fe" in reason
    rows = list(csv.DictReader((summary / "errors.csv").read_text().splitlines()))
    whole = {row["target"]: int(row["entries"]) for row in rows if row["by"] == "all"}
    assert whole == {"energy": 9, "forces": sum(3 * len(atoms) for atoms in found)}
    assert {row["group"] for row in rows if row["by"] == "group"} == {"kind0", "kind1"}

    for command in (["status", "campaign", "--json"], ["verify", "campaign"], ["report", "campaign"]):
        assert invoke(command) == 0
    assert "9 structures predicted" in capsys.readouterr().out
    # what is done is not done again, even when the files are gone; other settings are another stage
    before = {part: part.stat().st_mtime_ns for part in parts}
    (finished / "pool").unlink()
    runs.finish(finished, "run", *OF_WORKFLOW)
    assert {part: part.stat().st_mtime_ns for part in parts_of(finished)} == before
    (finished / "w.yaml").write_text((finished / "w.yaml").read_text().replace("shards: 3", "shards: 2"))
    capsys.readouterr()
    assert invoke(["run", *OF_WORKFLOW]) == 2
    said = capsys.readouterr().err
    assert "Predict has to run, since its settings or files changed, and source files are gone" in said


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("predict:\n  structures: {files: none/*.xyz}\n", 1, "No file matches"),
        ("predict:\n  dataset: aloys\n  structures: {files: pool/many.extxyz}\n", 1, "no source 'aloys'"),
        ("predict:\n  structures: {files: pool/many.extxyz, reader: asse}\n", 1, "asse"),
        ("predict:\n  structures: {files: pool/many.extxyz}\n  format: xyzz\n", 2, "xyzz"),
        ("predict:\n  structures: {reader: emt-alloys, files: pool/many.extxyz}\n", 1, "makes its own data"),
        ("predict: {}\n", 0, "structures"),
    ],
)
def test_a_wrong_section_is_one_sentence_with_its_line(
    finished: Path, capsys: pytest.CaptureFixture[str], section: str, line: int, message: str
) -> None:
    first = with_section(finished, section)
    before = sorted(finished.rglob("*"))
    assert invoke(["validate", "w.yaml"]) == 2
    said = capsys.readouterr().err
    assert f"w.yaml:{first + line}" in said
    assert message in said
    assert sorted(finished.rglob("*")) == before
