"""`ingest --preview`: what a source holds and what would become of it, with nothing written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from workflow_cases import VALID

from gfm_pipeline.cli.main import invoke

FRAME = """\
3
energy={energy} run=r{run} Properties=species:S:1:pos:R:3:forces:R:3
O 0.0 0.0 {x} 0.0 0.0 0.1
H 0.76 0.0 0.59 0.0 0.0 -0.05
H -0.76 0.0 0.59 0.0 0.0 -0.05
"""
SOURCE = "    mine: {reader: ase, files: mine.xyz, group_key: run}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert VALID.count("  sources:\n") == 1
    (tmp_path / "w.yaml").write_text(VALID.replace("  sources:\n", f"  sources:\n{SOURCE}"))
    frames = [FRAME.format(energy=-10.0 - k / 100, run=k % 3, x=k / 1000) for k in range(20)]
    (tmp_path / "mine.xyz").write_text("".join(frames))
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert invoke(["ingest", "w.yaml", "--preview", "mine", *words]) == code, capsys.readouterr().err
    return capsys.readouterr().out


def test_records_units_and_filters_are_shown_and_nothing_is_written(folder, capsys):
    before = sorted(folder.rglob("*"))
    text = shown(capsys)
    assert "20 records read from 1 of 1 files (all of it), 20 usable, 3 groups, elements H O" in " ".join(text.split())
    assert "Nothing is converted" in text
    assert "No filter would remove a record." in text
    seen = json.loads(shown(capsys, "--json"))
    assert len(seen["records"]) == 10
    assert {record["formula"] for record in seen["records"]} == {"H2O"}
    assert sorted(folder.rglob("*")) == before


def test_what_is_taken_out_is_counted_in_per_cent_with_an_example(folder, capsys):
    with open(folder / "mine.xyz", "a") as stream:
        stream.write(FRAME.format(energy=-10.0, run=1, x=0.0) * 5)  # copies of the first frame
    text = " ".join(shown(capsys, code=1).split())
    assert "duplicate: 5 (20.0%)" in text
    assert "Ingest would fail: 20.0% would be set aside, and max_quarantined is 5.0%." in text
    assert "would fail" not in shown(capsys, "--set", "data.max_quarantined=0.2")


def test_a_choice_that_leaves_no_record_is_called_so(folder, capsys):
    text = shown(capsys, "--set", "data.sources.mine.select.run=none", code=1)
    assert "Ingest would fail: select chooses none of the 20 records that were read" in text


def test_a_source_that_cannot_be_used_says_so(folder, capsys):
    (folder / "mine.xyz").write_text("no frame\n")
    text = shown(capsys, code=1)
    assert "Ingest would fail: no record is usable" in text
    assert "unreadable: 1 (100.0%)" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--preview", "mien"], "w.yaml:"),
        (["--preview", "mine", "--set", "data.sources.mine.files=gone.xyz"], "There is no file"),
        (["--preview", "mine", "--set", "data.sources.mine.force_sign=gradient"], "Did you mean 'gradients'?"),
    ],
)
def test_a_mistake_is_one_sentence(folder, capsys, words, sentence):
    before = sorted(folder.rglob("*"))
    assert invoke(["ingest", "w.yaml", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert sentence in err
    assert sorted(folder.rglob("*")) == before


def test_a_pipe_among_the_files_is_refused_and_nothing_waits_for_it(folder, capsys):
    (folder / "mine.xyz").unlink()
    os.mkfifo(folder / "mine.xyz")
    for command in (["ingest", "w.yaml", "--preview", "mine"], ["validate", "w.yaml"]):
        assert invoke(command) == 2
        assert "mine.xyz is a named pipe and no file." in capsys.readouterr().err


def test_targets_are_looked_for_and_one_that_nothing_labels_ends_with_an_error(folder, capsys):
    text = (folder / "mine.xyz").read_text().replace("energy=", "REF_gap=1.5 energy=")
    (folder / "mine.xyz").write_text(text)
    workflow = (folder / "w.yaml").read_text()
    start, end = workflow.index("    alloys:"), workflow.index("search:")
    workflow = (workflow[:start] + workflow[end:]).replace("seed: 3", "targets: {energy: {}, forces: {}, band_gap: {}}")
    (folder / "w.yaml").write_text(workflow)
    assert "band_gap (REF_gap), eV, of 20 of 20 usable records" in shown(capsys)
    found = json.loads(shown(capsys, "--json"))["targets"]
    assert [(one["target"]["name"], one["records"], one["keys"]) for one in found] == [("band_gap", 20, ["REF_gap"])]
    (folder / "mine.xyz").write_text(text.replace("REF_gap", "width"))
    assert invoke(["ingest", "w.yaml", "--preview", "mine"]) == 1
    assert "No source of the workflow labels band_gap" in capsys.readouterr().err


def test_splits_and_references_that_would_result_are_shown(folder, capsys):
    seen = json.loads(shown(capsys, "--json"))
    assert [(s["split"], s["groups"]) for s in seen["splits"]] == [("trainset", 1), ("valset", 1), ("testset", 1)]
    assert sum(s["records"] for s in seen["splits"]) == 20
    assert all(set(s["elements"]) == {"H", "O"} for s in seen["splits"])
    assert seen["references"]["rank"] == 1  # one composition determines one number
    assert seen["references"]["energies"].keys() == {"H", "O"}
    text = " ".join(shown(capsys).split())
    assert "Splits that would result" in text
    assert "1 of 2 determined" in text


def test_a_handful_of_records_is_tried_out_and_says_that_ingest_would_fail(folder, capsys):
    (folder / "mine.xyz").write_text(FRAME.format(energy=-10.0, run=1, x=0.0))
    assert "Ingest would fail: " in shown(capsys)
    assert json.loads(shown(capsys, "--json"))["failure"] is not None


def test_all_sources_are_looked_at_and_the_first_that_would_fail_is_named(folder, capsys):
    assert invoke(["ingest", "w.yaml", "--json", "--scan", "40"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["source"] for line in lines] == ["alloys", "mine"]
    (folder / "mine.xyz").write_text(FRAME.format(energy=-10.0, run=1, x=0.0))
    assert invoke(["ingest", "w.yaml", "--preview", "--scan", "40"]) == 1
    out, err = capsys.readouterr()
    assert "alloys" in out
    assert len(err.strip().splitlines()) == 1
    assert "Source mine: ingest would fail: " in err
    assert "three splits need at least three" in err
