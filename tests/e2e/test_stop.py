"""Stop politely, refuse a second driver, and go on."""

import os
import signal
import subprocess
import time

import pytest
import runs

from gfm_pipeline.campaign import events as ev

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_signal_saves_and_resume_goes_on(number, tmp_path):
    long = ["--set", "search.rungs=[20000000, 40000000]", "--set", "site.compile_training=never"]
    (tmp_path / "w.yaml").write_text(runs.SMALL)
    journal = tmp_path / "campaigns" / "small" / "journal.jsonl"
    process = runs.start(tmp_path, "run", "w.yaml", *long)
    runs.wait_for(journal, lambda e: isinstance(e, ev.TaskStarted) and e.task.startswith("c0"))
    progress = tmp_path / "campaigns" / "small" / "stages"
    give_up = time.monotonic() + 60
    while not list(progress.glob("search-*/tasks/*/attempt-1/progress.jsonl")) and time.monotonic() < give_up:
        time.sleep(0.1)

    second = subprocess.run(
        runs.command("run", "w.yaml"), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert second.returncode == 75
    assert f"pid {process.pid}" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1

    os.kill(process.pid, number)
    assert process.wait(timeout=90) == 3
    log = (tmp_path / "driver.log").read_text()
    assert "gfm-pipeline resume campaigns/small" in log
    assert "Traceback" not in log
    stories = runs.starts(journal)
    trained = {task: story for task, story in stories.items() if task.startswith("c0")}
    assert trained
    assert all(story == ["start", "preempted"] for story in trained.values())
    assert not (tmp_path / "campaigns" / "small" / "driver.lock").exists()

    process = runs.start(tmp_path, "resume", "campaigns/small")
    runs.wait_for(journal, lambda e: isinstance(e, ev.TaskStarted) and e.attempt == 2)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=90) == 3
    assert runs.processes_of(tmp_path) == []
