"""Whole campaigns in folders whose names shells, formats and patterns read otherwise."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pretended
import pytest
import runs

from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_sources

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ['it\'s my "drive" & $HOME; {x} {{y}}', "100% [a]*=`id`, a:b größe\nand a line"])
def test_a_campaign_runs_in_a_folder_of_any_name(name, tmp_path):
    folder = tmp_path / name
    words = pretended.write_campaign(folder, pretended.SHORT)
    runs.finish(folder, *words)
    assert all(story == ["start", "ok"] for story in runs.starts(pretended.journal_of(folder)).values())
    assert pretended.artefacts(folder)
    assert runs.processes_of(folder) == []


def test_a_path_that_is_not_text_is_refused_in_a_sentence(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/by\xfftes"))
    words = pretended.write_campaign(folder, pretended.SHORT)
    done = subprocess.run(runs.command(*words), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The path ")
    assert "is not UTF-8" in done.stderr
    assert not (folder / "campaigns").exists()


def test_sources_are_found_beside_a_workflow_in_a_folder_that_looks_like_a_pattern(tmp_path):
    folder = tmp_path / "data [v1]*"
    pretended.write_campaign(folder, pretended.SHORT)
    text = (
        (folder / "w.yaml")
        .read_text()
        .replace("reader: emt-alloys", "reader: ase\n      files: ['x[1].extxyz', '*.xyz']")
    )
    (folder / "w.yaml").write_text(text)
    for file in ("x[1].extxyz", "y.xyz", "x1.extxyz"):
        (folder / file).write_text("1\n\nH 0 0 0\n")
    found = resolve_sources(load_workflow(folder / "w.yaml"))
    assert [Path(f).name for f in found[0].files] == ["x[1].extxyz", "y.xyz"]
