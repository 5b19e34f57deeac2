"""What Parsl loses: each part of it is killed or stopped under a running campaign, which notices and goes on.

The cases are the known defects of Parsl's `HighThroughputExecutor`: a driver waits for ever when the interchange
dies, a pool that died is not started again, a future of a stuck worker never resolves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pretended
import psutil
import pytest
import runs
from test_retries import inject

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import Cause
from gfm_pipeline.core.contracts.task import WRAPPER_FILE, WrapperRecord
from gfm_pipeline.core.records import read_record
from gfm_pipeline.core.visibility import modified
from gfm_pipeline.engine.tasks.watchdog import Watchdog

pytestmark = pytest.mark.slow
FORKED_POOL = "gfm_pipeline.apps.runtime.forked_pool"


def part_of_parsl(driver: int, script: str) -> psutil.Process:
    """Return the process of the driver's Parsl that runs ``script``; the pool is found by the session it shares."""
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            mine = os.getsid(process.pid) == os.getsid(driver) or process.ppid() == driver
            if mine and any(word.endswith(script) for word in line) and "bash" not in line[0]:
                return process
        time.sleep(0.1)
    raise AssertionError(f"{script} never ran")


def started(folder: Path, *settings: str) -> subprocess.Popen[bytes]:
    """Start a campaign in a session of its own and wait until it trains."""
    arguments = pretended.write_campaign(folder)
    overrides = [part for text in settings for part in ("--set", text)]
    with open(folder / "driver.log", "ab") as log:
        driver = subprocess.Popen(
            runs.command(*arguments, *overrides),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    journal = pretended.journal_of(folder)
    runs.wait_for(journal, lambda e: isinstance(e, ev.TaskStarted) and e.task.startswith("c0"))
    while not list(folder.glob(f"campaigns/*/stages/search-*/tasks/*/attempt-1/{WRAPPER_FILE}")):
        time.sleep(0.05)
    return driver


def assert_same_end(folder: Path, driver: subprocess.Popen[bytes], whole: Path) -> list[ev.Event]:
    assert driver.wait(timeout=120) == 0, (folder / "driver.log").read_text()[-3000:]
    assert pretended.artefacts(folder) == pretended.artefacts(whole)
    assert runs.processes_of(folder) == []
    return runs.events(pretended.journal_of(folder))


@pytest.mark.parametrize("script", ["HTEX interchange", FORKED_POOL])
def test_parsl_is_started_anew_when_a_part_of_it_dies(uninterrupted, tmp_path, script):
    driver = started(tmp_path)
    part_of_parsl(driver.pid, script).kill()
    events = assert_same_end(tmp_path, driver, uninterrupted)
    assert any(isinstance(e, ev.LauncherRestarted) for e in events)
    lost = [e for e in events if isinstance(e, ev.TaskEnded) and e.cause is not Cause.FINISHED]
    assert {e.cause for e in lost} <= {Cause.LAUNCHER_LOST, Cause.NODE_FAILURE, Cause.WORKER_LOST}


def test_workers_go_on_when_what_they_were_forked_from_dies(uninterrupted, tmp_path):
    """Parsl takes them for dead and has new ones made; each task ends once in the journal, and nothing is left."""
    driver = started(tmp_path)
    children = part_of_parsl(driver.pid, FORKED_POOL).children()
    (server,) = (c for c in children if "multiprocessing.forkserver" in " ".join(c.cmdline()))
    assert len(server.children()) > 1  # the workers
    server.kill()
    assert_same_end(tmp_path, driver, uninterrupted)


def test_a_parsl_that_keeps_dying_ends_the_run_with_one_sentence(tmp_path):
    driver = started(tmp_path, "search.rungs=[100000, 200000]")
    journal = pretended.journal_of(tmp_path)
    for number in range(1, 5):
        part_of_parsl(driver.pid, "HTEX interchange").kill()
        if number < 4:
            give_up = time.monotonic() + 60
            while sum(isinstance(e, ev.LauncherRestarted) for e in runs.events(journal)) < number:
                assert time.monotonic() < give_up
                time.sleep(0.05)
    assert driver.wait(timeout=60) == 4
    last = (tmp_path / "driver.log").read_text().strip().splitlines()[-1]
    assert last.startswith("Error: Parsl's interchange died, after 3 restarts in a row.")
    assert runs.processes_of(tmp_path) == []


def test_a_worker_that_is_stuck_is_found_and_its_slot_freed(uninterrupted, tmp_path):
    """The wrapper stops with its worker: Parsl's future would never resolve."""
    ends = inject(tmp_path, {"c00000-r0": ["stuck worker"]}, "limits.wrapper_timeout_seconds=5")
    assert [e.cause for e in ends["c00000-r0"]] == [Cause.NODE_FAILURE, Cause.FINISHED]
    assert "no sign of life" in ends["c00000-r0"][0].reason
    assert pretended.artefacts(tmp_path) == pretended.artefacts(uninterrupted)
    assert runs.processes_of(tmp_path) == []


def test_a_manager_that_is_stuck_is_found(uninterrupted, tmp_path):
    """Tasks come back as lost, and what is submitted afterwards reaches no manager: Parsl itself sees no fault."""
    driver = started(tmp_path, "limits.wrapper_timeout_seconds=5")
    record = next(
        read_record(WrapperRecord, file)
        for file in tmp_path.glob(f"campaigns/*/stages/search-*/tasks/*/attempt-1/{WRAPPER_FILE}")
    )
    forked_from = psutil.Process(record.wrapper.pid).ppid()
    os.kill(psutil.Process(forked_from).ppid(), signal.SIGSTOP)
    events = assert_same_end(tmp_path, driver, uninterrupted)
    causes = {e.cause for e in events if isinstance(e, ev.TaskEnded)}
    assert Cause.NODE_FAILURE in causes


def test_watchdog_counts_changes_and_not_ages(tmp_path):
    dog = Watchdog(10.0)
    file = tmp_path / "beat"
    assert not dog.silent("t", modified(file), 0.0)
    assert not dog.silent("t", modified(file), 9.0)
    file.touch()
    os.utime(file, (1.0, 1.0))  # half a century ago, and yet new
    assert not dog.silent("t", modified(file), 11.0)
    assert not dog.silent("t", modified(file), 20.0)
    os.utime(file, (9e9, 9e9))
    assert not dog.silent("t", modified(file), 25.0)
    assert not dog.silent("t", modified(file), 34.0)
    assert dog.silent("t", modified(file), 36.0)
    dog.forget("t")
    assert not dog.silent("t", modified(file), 99.0)


def test_watchdog_looks_by_turns_and_forgets():
    dog = Watchdog(8.0)
    dog.watch("a", 0.0)
    dog.watch("b", 0.5)
    looks = [(now / 10, token) for now in range(40) for token in dog.due(now / 10)]
    assert looks == [(0.0, "a"), (0.5, "b"), (1.0, "a"), (1.5, "b"), (2.0, "a"), (2.5, "b"), (3.0, "a"), (3.5, "b")]
    dog.forget("a")
    dog.watch("a", 4.2)  # another attempt: watched once, not twice
    assert list(dog.due(4.0)) == []
    assert list(dog.due(4.3)) == ["a"]
    assert list(dog.due(5.4)) == ["b", "a"]


def test_a_thread_that_never_ends_does_not_keep_the_command(tmp_path):
    """What a Parsl leaves whose interchange died; a job that does not end keeps its nodes."""
    program = (
        "import threading\n"
        "from gfm_pipeline.cli.main import main\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "main(['status', 'nowhere'])\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: nowhere holds no campaign.")
