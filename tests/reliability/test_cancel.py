"""Stop: politely, at once, from another terminal, after the driver's death. Nothing is left, and resume goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pretended
import pytest
import runs
from test_lost_tasks import started

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.holder import this_process
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.contracts.task import EXIT_FILE, WRAPPER_FILE, WrapperRecord
from gfm_pipeline.core.processes import ProcessId, identify, is_alive
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.core.records import to_plain

pytestmark = pytest.mark.slow
LONG = "search.rungs=[1000000, 2000000]"


def cancel(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        runs.command("cancel", str(pretended.campaign_of(folder)), *options),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def assert_nothing_runs(folder: Path, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while (left := runs.processes_of(folder)) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert left == []


def test_a_second_ctrl_c_is_immediate_and_as_safe(uninterrupted, tmp_path):
    driver = started(tmp_path, "converge.max_graphs=400")
    os.kill(driver.pid, signal.SIGINT)
    time.sleep(0.05)
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=10) == 130
    assert_nothing_runs(tmp_path, 20)
    assert not (pretended.campaign_of(tmp_path) / "driver.lock").exists()
    assert "Traceback" not in (tmp_path / "driver.log").read_text()
    again = "site.description=Another name for the same machine"
    runs.finish(tmp_path, "resume", str(pretended.campaign_of(tmp_path)), "--set", again)
    last = load_state(pretended.journal_of(tmp_path)).drivers[-1].info
    assert again in last.resolved["overrides"], "the site is the last one, with what is set on top"
    assert pretended.artefacts(tmp_path) == pretended.artefacts(uninterrupted)
    for task, story in runs.starts(pretended.journal_of(tmp_path)).items():
        assert story[-1] == "ok", task
        assert "ok" not in story[:-1]


def test_ctrl_c_on_a_terminal_reaches_every_process_and_is_polite_all_the_same(tmp_path):
    driver = started(tmp_path, LONG)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    assert driver.wait(timeout=60) == 3
    log = (tmp_path / "driver.log").read_text()
    assert "gfm-pipeline resume" in log
    assert "Traceback" not in log
    stories = {k: v for k, v in runs.starts(pretended.journal_of(tmp_path)).items() if k.startswith("c0")}
    assert stories
    assert all(story == ["start", "preempted"] for story in stories.values())
    ends = [e for e in runs.events(pretended.journal_of(tmp_path)) if isinstance(e, ev.TaskEnded)]
    assert {e.cause for e in ends if e.task in stories} == {ev.Cause.STOPPED}
    assert_nothing_runs(tmp_path, 5)


def test_cancel_stops_a_living_driver_politely(tmp_path):
    driver = started(tmp_path, LONG)
    done = cancel(tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"The driver (pid {driver.pid}" in done.stdout
    assert "saved a checkpoint" in done.stdout
    assert "gfm-pipeline resume" in done.stdout
    assert driver.wait(timeout=10) == 3
    assert runs.processes_of(tmp_path) == []
    stories = runs.starts(pretended.journal_of(tmp_path))
    assert all(story == ["start", "preempted"] for task, story in stories.items() if task.startswith("c0"))
    again = cancel(tmp_path)
    assert again.returncode == 0
    assert again.stdout.startswith("No driver holds the campaign.\nNothing of")


def test_cancel_now_does_not_wait(tmp_path):
    driver = started(tmp_path, LONG)
    done = cancel(tmp_path, "--now")
    assert done.returncode == 0, done.stderr
    assert "stopped at once" in done.stdout
    assert driver.wait(timeout=10) == 143
    assert runs.processes_of(tmp_path) == []


def test_cancel_kills_a_driver_that_does_not_answer(tmp_path):
    driver = started(tmp_path, LONG)
    os.kill(driver.pid, signal.SIGSTOP)
    reaper = subprocess.Popen(runs.command("cancel", str(pretended.campaign_of(tmp_path)), "--timeout", "1"))
    assert driver.wait(timeout=60) == -signal.SIGKILL
    assert reaper.wait(timeout=60) == 0
    assert runs.processes_of(tmp_path) == []


def test_cancel_ends_what_a_dead_driver_left(tmp_path):
    driver = started(tmp_path, LONG)
    runs.kill(driver)
    done = cancel(tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Its driver (pid {driver.pid}" in done.stdout
    assert "is dead" in done.stdout
    assert runs.processes_of(tmp_path) == []


def test_cancel_ends_a_group_whose_wrapper_is_gone(tmp_path):
    """As without parent-death signals: the program, and a child of it, run on alone."""
    driver = started(tmp_path, LONG)
    runs.kill(driver)
    assert cancel(tmp_path).returncode == 0
    attempt = next(tmp_path.glob("campaigns/*/stages/search-*/tasks/*/attempt-1"))
    orphan = subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300"], cwd=attempt, start_new_session=True)
    here = identify(orphan.pid)
    gone = ProcessId(here.host, here.boot_id, 2**22 - 1, "1")
    write_record(attempt / WRAPPER_FILE, WrapperRecord(gone, here))
    done = cancel(tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Ended the remaining processes: tasks {attempt.parent.name}" in done.stdout
    assert orphan.wait(timeout=5) == -signal.SIGKILL
    assert runs.processes_of(tmp_path) == []
    assert not is_alive(here)


def test_a_driver_on_another_host_is_asked_through_the_folder(tmp_path):
    driver = started(tmp_path, LONG)
    campaign = pretended.campaign_of(tmp_path)
    (campaign / "cancel").touch()
    assert driver.wait(timeout=60) == 3
    assert_nothing_runs(tmp_path, 5)

    held = to_plain(this_process()) | {"host": "elsewhere", "boot_id": "another"}  # one that does not hear
    (campaign / "driver.lock").write_text(json.dumps(held))
    done = cancel(tmp_path, "--timeout", "0.5")
    assert done.returncode == 75
    assert (
        f"Run cancel on elsewhere; or, if that driver is certainly gone: gfm-pipeline unlock {campaign}" in done.stderr
    )
    assert not (campaign / "cancel").exists()


def test_records_of_wrappers_are_removed_at_their_end(uninterrupted):
    assert list(uninterrupted.rglob(EXIT_FILE))
    assert list(uninterrupted.rglob(WRAPPER_FILE)) == []


def test_cancel_of_no_campaign_is_a_mistake(tmp_path):
    done = subprocess.run(
        runs.command("cancel", str(tmp_path)), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "holds no campaign" in done.stderr
