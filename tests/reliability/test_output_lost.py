"""Terminals that hang up, pipes that nobody reads, logs on a full disk: the driver goes on, and stops as ever."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from contextlib import contextmanager

import pretended
import pytest
import runs

from gfm_pipeline.api.stopping import WATCHED, stopping
from gfm_pipeline.campaign import events as ev

LONG = ["--set", "search.rungs=[1000000, 2000000]"]


def is_training(event: ev.Event) -> bool:
    return isinstance(event, ev.TaskStarted) and event.task.startswith("c0")


def assert_stopped_politely(folder, driver: subprocess.Popen[bytes]) -> None:
    assert driver.wait(timeout=60) == 3
    found = runs.events(pretended.journal_of(folder))
    ends = [e.cause for e in found if isinstance(e, ev.TaskEnded) and e.task.startswith("c0")]
    assert ends
    assert set(ends) == {ev.Cause.STOPPED}, "running trainings were asked to save"
    assert isinstance(found[-1], ev.DriverEnded)
    assert found[-1].outcome.startswith("Stopped")
    assert runs.processes_of(folder) == []


@contextmanager
def campaign(folder, *settings: str, **streams):
    """Start a campaign with its output to ``streams``, wait until it trains, and leave nothing of it."""
    command = runs.command(*pretended.write_campaign(folder), *settings)
    driver = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True, **streams)
    try:
        runs.wait_for(pretended.journal_of(folder), is_training)
        yield driver
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()


@pytest.mark.slow
def test_a_pipe_that_nobody_reads_any_more(tmp_path):
    reader, writer = os.pipe()
    with campaign(tmp_path, *LONG, stdout=writer, stderr=writer) as driver:
        os.close(writer)
        os.close(reader)  # `| tee` was killed by the same Ctrl-C
        driver.send_signal(signal.SIGINT)
        assert_stopped_politely(tmp_path, driver)


@pytest.mark.slow
def test_a_full_log_is_no_reason_to_stop(tmp_path):
    with open("/dev/full", "wb") as full, campaign(tmp_path, stdout=full, stderr=full) as driver:
        assert driver.wait(timeout=120) == 0
    assert (pretended.campaign_of(tmp_path) / "report.html").exists()


@pytest.mark.slow
def test_a_terminal_that_hangs_up(tmp_path):
    ours, terminal = pty.openpty()
    with campaign(tmp_path, *LONG, stdout=terminal, stderr=terminal) as driver:
        os.close(terminal)
        os.close(ours)  # writes give EIO from now on
        driver.send_signal(signal.SIGHUP)  # as its shell does
        assert_stopped_politely(tmp_path, driver)


@pytest.mark.slow
def test_under_nohup_a_hangup_is_not_heard(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited, as from nohup
    try:
        with campaign(tmp_path, *LONG, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
            signal.signal(signal.SIGHUP, before)
            seen = len(runs.events(pretended.journal_of(tmp_path)))
            driver.send_signal(signal.SIGHUP)
            driver.send_signal(signal.SIGTERM)  # heard after it
            assert_stopped_politely(tmp_path, driver)
            assert len(runs.events(pretended.journal_of(tmp_path))) > seen
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", WATCHED)
def test_a_signal_that_was_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stopping(None, print) as stop:
            assert signal.getsignal(number) is signal.SIG_IGN
            os.kill(os.getpid(), number)
            assert not stop.requested.is_set()
            assert all(signal.getsignal(other) == stop.handle for other in WATCHED if other != number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
