"""One driver per campaign."""

import json
import os
import subprocess
import sys
import threading

import pytest

from gfm_pipeline.campaign import lock
from gfm_pipeline.campaign.holder import JobIdentity, this_process
from gfm_pipeline.campaign.lock import CampaignLock, read_holder
from gfm_pipeline.core.errors import CampaignLocked
from gfm_pipeline.core.records import to_plain


def test_held_then_free(tmp_path):
    path = tmp_path / "driver.lock"
    with CampaignLock(path):
        holder, age = read_holder(path)
        assert holder.pid == os.getpid()
        assert age < 60
        with pytest.raises(CampaignLocked, match=f"pid {os.getpid()}") as caught, CampaignLock(path):
            pass
        assert caught.value.exit_code == 75
    assert read_holder(path) is None


def test_a_dead_holder_is_replaced(tmp_path):
    path = tmp_path / "driver.lock"
    code = (
        "import os, sys; from pathlib import Path; from gfm_pipeline.campaign.lock import CampaignLock;"
        f"CampaignLock(Path({str(path)!r})).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert path.exists()
    with CampaignLock(path) as held:
        assert held.replaced is not None
        assert held.replaced.pid != os.getpid()


def test_a_reused_pid_is_not_the_holder(tmp_path):
    path = tmp_path / "driver.lock"
    path.write_text(json.dumps(to_plain(this_process()) | {"process_started": "1"}))
    with CampaignLock(path) as held:
        assert held.replaced is not None


def test_another_host_needs_unlock(tmp_path):
    path = tmp_path / "driver.lock"
    path.write_text(json.dumps(to_plain(this_process()) | {"host": "elsewhere", "boot_id": "another"}))
    os.utime(path, (1, 1))
    with pytest.raises(CampaignLocked, match="gfm-pipeline unlock"), CampaignLock(path):
        pass
    assert path.exists()


def test_a_lock_that_nobody_finishes_writing_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TORN_SECONDS", 0.3)
    path = tmp_path / "driver.lock"
    path.write_text("{")  # its driver was killed while it wrote
    with CampaignLock(path):
        assert read_holder(path)[0].pid == os.getpid()


def test_a_lock_that_is_being_written_is_waited_for(tmp_path):
    path = tmp_path / "driver.lock"
    path.write_text("")
    record = json.dumps(to_plain(this_process()))
    writer = threading.Timer(0.2, lambda: path.write_text(record))
    writer.start()
    with pytest.raises(CampaignLocked, match=f"pid {os.getpid()} "), CampaignLock(path):
        pass
    writer.join()


JOB = JobIdentity("41", "gfm-small-j001", "slurm", "east", 0)
ELSEWHERE = {"host": "node7", "boot_id": "another"}


def held_by_a_job(path, **changes):
    record = to_plain(this_process(JOB)) | ELSEWHERE | changes
    path.write_text(json.dumps(record))
    return path


def take(path, job=JobIdentity(), ended=lambda _: False):  # noqa: B008 - frozen
    with CampaignLock(path, job, ended) as held:
        return held.replaced


def test_a_job_that_was_begun_again_takes_over_its_own_lock(tmp_path):
    again = JobIdentity("41", "gfm-small-j001", "slurm", "east", 1)
    assert take(held_by_a_job(tmp_path / "driver.lock"), again).host == "node7"


@pytest.mark.parametrize(
    "other",
    [
        JobIdentity("41", "gfm-small-j001", "slurm", "west", 1),
        JobIdentity("41", "gfm-small-j001", "slurm", "", 1),
        JobIdentity("42", "gfm-small-j002", "slurm", "east", 1),
        JobIdentity("41", "gfm-small-j001", "slurm", "east", 0),  # a second driver in the same job
        JobIdentity("41", "gfm-small-j001", "pbs", "east", 1),
        JobIdentity("41", "gfm-small-j001", "slurm", "east", -1),
    ],
)
def test_another_job_or_another_cluster_does_not(other, tmp_path):
    path = held_by_a_job(tmp_path / "driver.lock")
    with pytest.raises(CampaignLocked, match="job 41 of slurm cluster east"):
        take(path, other)
    assert json.loads(path.read_text())["host"] == "node7"


def test_a_holder_whose_heart_beats_lives_whatever_its_batch_system_says(tmp_path):
    path = held_by_a_job(tmp_path / "driver.lock")

    def says_ended(_):
        os.utime(path, (5, 5))  # a heartbeat, by a clock of its own
        return True

    with pytest.raises(CampaignLocked, match="on another machine"):
        take(path, ended=says_ended)
    assert take(path, ended=lambda _: True).job == "41"


def test_a_machine_of_the_same_name_whose_heart_beats_is_no_reboot_though_the_clock_jumped(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STILL_SECONDS", 30.0)
    path = tmp_path / "driver.lock"
    path.write_text(json.dumps(to_plain(this_process()) | {"boot_id": "another"}))
    os.utime(path, (1, 1))  # old, by the clock of who looks
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.utime(path, (3, 3)))
    with pytest.raises(CampaignLocked, match="heartbeat"):
        take(path)
    monkeypatch.setattr(lock, "STILL_SECONDS", 0.0)
    assert take(path) is not None


@pytest.mark.parametrize(
    "text",
    ["12345", "driver: pid 7", '["a", "list"]', '{"format": 3, "token": "x"}', '{"pid": "seven"}', "{}", "\x01\x02"],
)
def test_a_lock_of_an_unknown_format_is_refused(text, tmp_path):
    path = tmp_path / "driver.lock"
    path.write_text(text)
    with pytest.raises(CampaignLocked, match="lock of an unknown format") as caught:
        take(path)
    assert caught.value.exit_code == 75
    assert "unlock --force" in str(caught.value)
    assert path.read_text() == text


def test_a_lock_of_the_first_version_opens(tmp_path):
    path = tmp_path / "driver.lock"
    first = ("host", "pid", "boot_id", "started", "process_started", "pid_namespace", "job")
    record = {key: value for key, value in to_plain(this_process()).items() if key in first}
    path.write_text(json.dumps(record))
    with pytest.raises(CampaignLocked, match="already being driven"):
        take(path)
    path.write_text(json.dumps(record | {"process_started": "1"}))
    assert take(path).format == 1
