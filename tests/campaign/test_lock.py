"""One driver a campaign."""

import json
import os
import subprocess
import sys
import threading

import pytest

from gfm_pipeline.campaign import lock
from gfm_pipeline.campaign.lock import CampaignLock, read_holder, this_process
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
    path.write_text(json.dumps(to_plain(this_process()) | {"host": "elsewhere"}))
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
