"""Campaigns as folders: listed with what is wrong with them, and their logs in words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gfm_pipeline.api.campaign_log import CampaignLog, follow
from gfm_pipeline.api.folders import existing
from gfm_pipeline.api.listing import bytes_below
from gfm_pipeline.campaign.events import DriverEnded, StageFailedEvent, to_entry
from gfm_pipeline.campaign.folder import driving
from gfm_pipeline.cli.main import invoke

RECORDED = Path(__file__).parents[1] / "reliability/fixtures/campaign-v1/campaign"


@pytest.fixture
def campaigns(tmp_path, monkeypatch) -> Path:
    """Return a folder with a finished campaign, one that is driven, a damaged one, and none of ours."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "campaigns"
    shutil.copytree(RECORDED, place / "done")
    shutil.copytree(RECORDED, place / "deeper" / "hurt")
    journal = place / "deeper" / "hurt" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], lines[1].replace(b"driver", b"drivel"), *lines[2:]]))
    (place / "notes").mkdir()
    (place / "loop").symlink_to(place)
    with driving(place / "new", "new"):
        pass
    return place


def told(capsys, *arguments: str, code: int = 0) -> str:
    assert invoke([*arguments]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_each_campaign_is_listed_once_with_where_it_stands(campaigns, capsys):
    found = {Path(c["path"]).name: c for c in json.loads(told(capsys, "list", "--json"))["campaigns"]}
    assert found.keys() == {"done", "hurt", "new"}
    assert (found["done"]["state"], found["done"]["stage"]) == ("done", "")
    assert found["done"]["bytes"] == bytes_below(campaigns / "done") > 1000
    assert (found["new"]["state"], found["new"]["stage"]) == ("stopped", "ingest")
    assert found["hurt"]["state"] == "damaged"
    assert "journal.jsonl:2" in found["hurt"]["detail"]
    with driving(campaigns / "new", "new"):
        assert "running" in told(capsys, "list", str(campaigns / "new"))
    assert "no campaign" in told(capsys, "list", str(campaigns / "notes"))
    assert "There is no folder" in told(capsys, "list", "nowhere", code=2)


def test_the_log_is_the_journal_in_words_and_then_that_of_a_task(campaigns, capsys):
    text = told(capsys, "logs", "campaigns/done")
    assert "Ingest done in" in text
    assert text.rstrip().endswith("Driver ended: done")
    assert "\x1b" not in text
    lines = [json.loads(line) for line in told(capsys, "logs", "campaigns/done", "--json", "-n", "2").splitlines()]
    assert [line["text"] for line in lines][-1] == "Driver ended: done"
    assert len(lines) == 2
    assert "objective" in told(capsys, "logs", "campaigns/done", "--task", "m00")
    said = told(capsys, "logs", "campaigns/done", "--task", "m0", code=2)
    assert "Did you mean 'm0" in said
    assert "It has 1" in told(capsys, "logs", "campaigns/done", "--task", "m00", "--attempt", "4", code=2)
    assert "give --task" in told(capsys, "logs", "campaigns/done", "--attempt", "1", code=2)


def test_following_goes_on_until_the_driver_has_ended(campaigns):
    log, found, written = CampaignLog(existing(campaigns / "done")), [], threading.Event()
    with driving(campaigns / "done", "recorded") as campaign:

        def listen() -> None:
            for line in follow(log):
                found.append(line.text)
                if line.text.startswith("Failed: the test"):
                    written.set()

        listener = threading.Thread(target=listen)
        listener.start()
        key = next(iter(campaign.state.stages))
        campaign.journal.append(*to_entry(StageFailedEvent(key, "the test says so")))
        assert written.wait(60)
        campaign.journal.append(*to_entry(DriverEnded("stopped")))
    listener.join(60)
    assert not listener.is_alive()
    assert found[-1] == "Driver ended: stopped"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_shell_runs(shell, capsys):
    script = told(capsys, "completion", shell)
    assert f"_GFM_PIPELINE_COMPLETE={shell}_complete" in script
    if shell == "bash" and shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_a_shell_is_answered_without_importing_commands(monkeypatch):
    code = (
        "import sys; from gfm_pipeline.cli.main import main\n"
        "try: main()\n"
        "finally: print([m for m in sys.modules if m.startswith('gfm_pipeline.api')])"
    )
    environment = {"COMP_WORDS": "gfm-pipeline re", "COMP_CWORD": "1", "_GFM_PIPELINE_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert {"plain,replay", "plain,report", "plain,resume"} <= set(done.stdout.split())
    assert done.stdout.rstrip().endswith("[]")
