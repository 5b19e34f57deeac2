"""Commands about datasets, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_cases import publish_dataset

from gfm_pipeline.cli.main import invoke


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return Path(publish_dataset(tmp_path / "demo", "demo", 3, 1.0, n=(8, 4, 4)).path)


def test_an_export_says_what_it_wrote_and_what_it_left_out(dataset, tmp_path, capsys):
    output = tmp_path / "demo-v2.bp"
    words = ["dataset", "export", "--hydragnn", "--radius", "1.0", str(dataset), str(output)]
    assert invoke(words) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert str(output) in text
    assert "structures, " in text.splitlines()[0]
    assert output.is_dir()
    assert "atoms have no neighbour within 1 A" in text
    (tmp_path / "again.bp").mkdir()
    assert invoke([*words[:-1], str(tmp_path / "again.bp")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert invoke([*words[:-1], str(tmp_path / "other.bp"), "--json", "--radius", "5"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["structures"], said["left_out"], said["atoms_alone"], said["without_forces"]) == (16, 0, 0, 0)


@pytest.mark.parametrize(
    "words", [["--radius", "0"], ["--radius", "-3"], ["--max-neighbours", "0"], ["--energies", "both"]], ids=" ".join
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(dataset, tmp_path, capsys, words):
    assert invoke(["dataset", "export", "--hydragnn", *words, str(dataset), str(tmp_path / "x.bp")]) == 2
    assert words[0] in capsys.readouterr().err
    assert not (tmp_path / "x.bp").exists()
