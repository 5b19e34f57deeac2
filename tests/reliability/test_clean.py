"""What `clean` removes is needed by nothing: the campaign is whole, repeats nothing, and is as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import runs
from pretended import artefacts, campaign_of, journal_of

from gfm_pipeline.api.listing import bytes_below
from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.lock import CampaignLock
from gfm_pipeline.cli.main import invoke

pytestmark = pytest.mark.slow


def starts(folder: Path) -> int:
    return sum(isinstance(event, ev.TaskStarted) for event in runs.events(journal_of(folder)))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert invoke([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_removed_is_needed_by_nothing(uninterrupted, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(uninterrupted, folder, symlinks=True)
    monkeypatch.chdir(folder)
    root = campaign_of(folder)
    first = {p.name for p in (root / "stages").iterdir()}
    runs.finish(folder, "run", "w.yaml", "--site", "site.yaml", "--set", "converge.members=3")  # takes over trainings
    torn = root / "stages" / min({p.name for p in (root / "stages").iterdir()} - first) / ".ensemble.tmp-0123abcd"
    torn.mkdir()
    (torn / "half").write_bytes(b"x" * 1000)
    links = {p: p.resolve() for p in (root / "stages").rglob("*") if p.is_symlink()}
    assert links  # else the second run took over nothing
    outputs = {p for p in artefacts(folder) if p.startswith("converge")}

    shown = answer(capsys, "clean", str(root))
    assert {one["kind"] for one in shown["kinds"]} >= {"unfinished", "superseded", "steps"}
    assert not shown["removed"]
    assert shown["campaign_bytes"] == bytes_below(root)
    assert torn.exists()  # a look changes nothing

    with CampaignLock(root / "driver.lock"):
        assert invoke(["clean", str(root), "--yes"]) == 75
    capsys.readouterr()
    assert torn.exists()

    done = answer(capsys, "clean", str(root), "--yes")
    assert done["removed"]
    assert done["kinds"] == shown["kinds"]
    assert bytes_below(root) == shown["campaign_bytes"] - done["bytes"]
    assert not torn.exists()
    assert all(target.exists() for target in links.values() if target.is_relative_to(root / "stages"))
    assert answer(capsys, "clean", str(root))["kinds"] == []

    before = starts(folder)
    current = {"run": ("w.yaml", "--site", "site.yaml", "--set", "converge.members=3"), "resume": (str(root),)}
    for command, rest in current.items():
        runs.finish(folder, command, *rest)
    assert starts(folder) == before  # nothing was needed again
    for command in ("verify", "replay", "report", "status"):
        assert invoke([command, str(root)]) == 0
    assert {p for p in artefacts(folder) if p.startswith("converge")} <= outputs
    capsys.readouterr()
