"""`dataset head` shows charge and spin where a dataset has any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from source_cases import PLAIN, ingest, waters

from gfm_pipeline.apps.ingest.assembly import origins
from gfm_pipeline.cli.main import invoke


@pytest.mark.parametrize("known", [True, False])
def test_charge_and_spin_are_shown_where_there_are_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: bool
) -> None:
    source = replace(PLAIN, files=(str(waters(tmp_path / "a.xyz", 60)),), group_key="run")
    folder = ingest(tmp_path / "out", replace(source, charge=-1, spin=2) if known else source)
    assert invoke(["dataset", "head", str(folder)]) == 0
    text = capsys.readouterr().out
    assert ("charge" in text and "spin" in text and "-1" in text) == known


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    capsys.readouterr()  # what ingest said
    assert invoke(["dataset", "head", str(folder), "-n", "99", "--json"]) == 0
    return [line for split in json.loads(capsys.readouterr().out)["splits"].values() for line in split]


def test_records_are_called_as_preview_calls_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the name of their group, and by file and position in it."""
    files = tuple(str(waters(tmp_path / name, 30, seed)) for seed, name in enumerate(("a.xyz", "b.xyz")))
    source = replace(PLAIN, files=files, group_key="run", shards=3)
    lines = shown(ingest(tmp_path / "out", source), capsys)
    expected = {f"{name}#{k}": f"run{k // 10}" for name in ("a.xyz", "b.xyz") for k in range(30)}
    assert {line["place"]: line["group"] for line in lines} == expected


def test_groups_without_names_are_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are too many of them, and in datasets of earlier versions, which do not say."""
    source = replace(PLAIN, files=(str(waters(tmp_path / "a.xyz", 60)),), group_key="@record")
    folder = ingest(tmp_path / "out", source)
    assert {line["group"] for line in shown(folder, capsys)} == {f"{source.files[0]}#{k}" for k in range(60)}
    monkeypatch.setattr(origins, "MOST", 59)
    many = shown(ingest(tmp_path / "many", source), capsys)
    assert {line["group"] for line in many} == {str(k) for k in range(60)}
    assert {line["place"] for line in many} == {f"a.xyz#{k}" for k in range(60)}
    manifest = folder / "manifest.json"
    said = json.loads(manifest.read_text())
    del said["meta"]["origins"]
    manifest.write_text(json.dumps(said))
    assert {line["place"] for line in shown(folder, capsys)} == {f"record {k} of the source" for k in range(60)}
