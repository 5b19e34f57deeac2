"""Processes that stand still with their job or their machine: that time counts as nobody's silence."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import runs
from pretended import journal_of
from test_lost_tasks import assert_same_end, started

from gfm_pipeline.apps.runtime.attempt_monitor import AttemptMonitor
from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.apps.runtime.supervise import WrapperHeartbeat
from gfm_pipeline.campaign import events as ev
from gfm_pipeline.core.clock import LivedTime
from gfm_pipeline.core.processes import is_stopped
from gfm_pipeline.core.visibility import modified
from gfm_pipeline.engine.tasks.watchdog import Watchdog
from gfm_pipeline.execution.interchange import any_suspended

PAUSE = (
    9.0  # seconds: longer than Parsl waits for heartbeats of a second, and than limits.wrapper_timeout_seconds below
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pause_counts_some_seconds_and_is_told():
    clock = Clock()
    lived = LivedTime(5.0, clock)
    assert lived() == 100.0
    clock.now += 4.0
    assert (lived(), lived.stood_still()) == (104.0, 0.0)
    clock.now += 3600.0
    assert (lived(), lived.stood_still(), lived.stood_still()) == (109.0, 3600.0, 0.0)
    clock.now -= 50.0  # a clock that jumps back
    assert lived() == 109.0
    clock.now += 1.0
    assert lived() == 110.0
    lived.hold(True)
    clock.now += 4.0
    assert lived() == 110.0
    lived.hold(False)
    clock.now += 4.0
    assert lived() == 114.0


def test_neither_wrapper_nor_ranks_nor_driver_take_a_pause_for_silence(tmp_path):
    """Each looks, stands still for an hour with all others, and looks again before the others have moved."""
    clock = Clock()
    lived = LivedTime(clock=clock)
    launch = Launch("m", str(tmp_path), deadline_seconds=600.0, environment={}, heartbeat_timeout_seconds=60.0)
    (tmp_path / "heartbeat").touch()
    (tmp_path / "wrapper.json").touch()
    watch, pulse = AttemptMonitor(launch, lived(), lived), WrapperHeartbeat(tmp_path / "wrapper.json", 60.0, lived())
    dog: Watchdog[str] = Watchdog(60.0)
    dog.watch("t", lived())
    for pause in (1.0, 3600.0, 1.0):
        clock.now += pause
        assert watch.poll(lived()) is None
        assert not pulse.lost(lived())
        assert not dog.silent("t", modified(tmp_path / "wrapper.json"), lived())
    for _ in range(70):  # time that they lived through counts
        clock.now += 1.0
        lived()
    assert watch.poll(lived()) is signal.SIGKILL
    assert pulse.lost(lived())
    assert dog.silent("t", modified(tmp_path / "wrapper.json"), lived())


def test_what_belongs_to_a_suspended_block_is_taken_for_heard_of(tmp_path):
    dog: Watchdog[str] = Watchdog(10.0)
    assert not dog.silent("t", modified(tmp_path / "f"), 0.0)
    dog.saw_heartbeat("t", 100.0)
    assert not dog.silent("t", modified(tmp_path / "f"), 109.0)
    assert dog.silent("t", modified(tmp_path / "f"), 111.0)


def test_blocks_are_suspended_while_a_file_names_them(tmp_path):
    file = tmp_path / "suspended"
    assert not any_suspended(file)
    file.write_text("gfm-b001\n")
    assert any_suspended(file)
    file.write_text("")
    assert not any_suspended(file)


def test_a_driver_that_stands_still_is_seen():
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert not is_stopped(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert is_stopped(child.pid)
    finally:
        child.kill()
        child.wait()
    assert not is_stopped(child.pid)


@pytest.mark.slow
def test_a_machine_that_sleeps_costs_no_attempt(uninterrupted, tmp_path):
    """All processes of the campaign stop, as a laptop's do, and go on."""
    driver = started(tmp_path, "limits.wrapper_timeout_seconds=6")
    everyone = family(psutil.Process(driver.pid), tmp_path)
    for process in everyone:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    time.sleep(PAUSE)
    for process in everyone:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    events = assert_same_end(tmp_path, driver, uninterrupted)
    assert not [e for e in events if isinstance(e, ev.LauncherRestarted)]
    assert all(story == ["start", "ok"] for story in runs.starts(journal_of(tmp_path)).values())
    assert [e.what for e in events if isinstance(e, ev.Suspended)] == [ev.DRIVER]
    assert "the driver stood still for" in (tmp_path / "driver.log").read_text()


def family(driver: psutil.Process, folder: Path) -> list[psutil.Process]:
    """Return the driver, and all that works for it: first those that watch others."""
    found = {p.pid: p for p in [driver, *driver.children(recursive=True)]}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if str(folder) in " ".join(process.cmdline()) or process.cwd().startswith(str(folder)):
                found[process.pid] = process
                found |= {p.pid: p for p in process.children(recursive=True)}
    return list(found.values())
