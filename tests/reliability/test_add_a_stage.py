"""The stage of the documentation, as it stands there: another package's, in a campaign of pretended programs."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pretended import WORKFLOW, campaign_of, write_campaign

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.engine.stages.base import Stage
from gfm_pipeline.engine.stages.table import EXTENSIONS, NAMES, all_stages
from gfm_pipeline.workflow.sections import workflow_model

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-stage.md").read_text()


@pytest.fixture
def lab_archive(tmp_path) -> Path:
    """Install the package of the page into a folder; return the folder."""
    site = tmp_path / "site"
    info = site / "lab_archive-1.0.dist-info"
    (site / "lab_archive").mkdir(parents=True)
    info.mkdir()
    (site / "lab_archive" / "__init__.py").touch()
    program, stage = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (site / "lab_archive" / "pack.py").write_text(program)
    (site / "lab_archive" / "stage.py").write_text(stage)
    point = re.search(r"```toml\n.*?\n(.*?)```", PAGE, re.DOTALL)[1].replace('"', "")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab_archive\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gfm_pipeline.stages]\n{point}")
    return site


def gfm(folder: Path, site: Path | None, *words: str, code: int = 0) -> str:
    paths = [] if site is None else [str(site)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "gfm_pipeline", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_documented_stage_runs_is_reported_and_checked(lab_archive, tmp_path):
    section = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    command = write_campaign(tmp_path, WORKFLOW + section)
    text = (tmp_path / "site.yaml").read_text()
    paths = re.search(r"PYTHONPATH: (.*)", text)[1]
    (tmp_path / "site.yaml").write_text(text.replace(paths, f"{paths}:{lab_archive}"))
    assert "one archive of the ensemble" in gfm(tmp_path, lab_archive, "plan", *command[1:], "--json")
    said = gfm(tmp_path, lab_archive, *command)
    assert re.search(r"pack: archive of [\d,]+ bytes", said)
    campaign = campaign_of(tmp_path)
    (archive,) = campaign.glob("stages/archive-*/archive/ensemble.zip")
    assert any(name.endswith("manifest.json") for name in zipfile.ZipFile(archive).namelist())
    assert "archive published" in gfm(tmp_path, lab_archive, "status", str(campaign), "--json")
    assert "archive" in gfm(tmp_path, lab_archive, "verify", str(campaign))
    assert "nothing it depends on has changed" in gfm(tmp_path, lab_archive, "why", *command[1:], "archive")
    # where the package is gone: what the journal says of it is left alone, and its section is an unknown key
    assert "calibrate" in gfm(tmp_path, None, "status", str(campaign))
    assert "Unknown key 'archive'" in gfm(tmp_path, None, "validate", *command[1:], code=2)


def test_a_workflow_without_its_section_has_no_such_stage(lab_archive, tmp_path):
    command = write_campaign(tmp_path)
    assert "archive" not in gfm(tmp_path, lab_archive, "plan", *command[1:], "--json")
    assert "is not a stage of this campaign" in gfm(tmp_path, lab_archive, "why", *command[1:], "archive", code=2)


def test_a_wrong_setting_of_it_is_one_sentence_with_its_line(lab_archive, tmp_path):
    command = write_campaign(tmp_path, f"{WORKFLOW}archive:\n  fromat: zip\n")
    said = gfm(tmp_path, lab_archive, "validate", *command[1:], code=2)
    line = len(WORKFLOW.splitlines()) + 2
    assert f"w.yaml:{line}" in said
    assert "fromat" in said
    assert "format" in said


@pytest.fixture
def installed(monkeypatch):
    """Pretend that entry points are installed; forget what was known of stages, before and after."""

    def install(**points: str) -> None:
        found = [importlib.metadata.EntryPoint(name, value, "gfm_pipeline.stages") for name, value in points.items()]
        monkeypatch.setattr(
            "gfm_pipeline.core.contracts.extensions.entry_points",
            lambda group, name=None: [p for p in found if p.group == group and name in (None, p.name)],
        )
        all_stages.cache_clear()
        workflow_model.cache_clear()

    yield install
    monkeypatch.undo()
    all_stages.cache_clear()
    workflow_model.cache_clear()


class Wandering(Stage):
    """Follows a stage that there is not."""

    name = "wandering"
    after = "nowhere"


Wandering.__abstractmethods__ = frozenset()
WANDERING = Wandering()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"wandering": "test_add_a_stage:WANDERING"}, "Stage 'wandering' follows 'nowhere', which is not a stage"),
        ({"other": "test_add_a_stage:WANDERING"}, "The entry point of stage 'wandering' is 'other'"),
        ({"gone": "no_such_module:STAGE"}, "cannot be imported: No module named 'no_such_module'"),
        ({"text": "test_add_a_stage:PAGE"}, "is not of type Stage"),
    ],
)
def test_a_stage_that_cannot_be_used_is_one_sentence(installed, points, message):
    installed(**points)
    with pytest.raises(ConfigError, match=re.escape(message)):
        all_stages()


def test_ours_win_over_entry_points_of_their_name(installed):
    installed(search="test_add_a_stage:WANDERING")
    assert tuple(stage.name for stage in all_stages()) == NAMES
    assert EXTENSIONS.describe("search").name == "search"
