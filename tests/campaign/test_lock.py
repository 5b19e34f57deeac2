"""One driver a campaign."""

import json
import os
import subprocess
import sys

import pytest

from gfm_pipeline.campaign.lock import CampaignLock, read_holder, this_process
from gfm_pipeline.common.errors import CampaignLocked
from gfm_pipeline.common.records import to_plain


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
    with CampaignLock(path) as lock:
        assert lock.replaced is not None
        assert lock.replaced.pid != os.getpid()


def test_a_reused_pid_is_not_the_holder(tmp_path):
    path = tmp_path / "driver.lock"
    path.write_text(json.dumps(to_plain(this_process()) | {"process_started": "1"}))
    with CampaignLock(path) as lock:
        assert lock.replaced is not None


def test_another_host_needs_unlock(tmp_path):
    path = tmp_path / "driver.lock"
    path.write_text(json.dumps(to_plain(this_process()) | {"host": "elsewhere"}))
    os.utime(path, (1, 1))
    with pytest.raises(CampaignLocked, match="gfm-pipeline unlock"), CampaignLock(path):
        pass
    assert path.exists()


def test_a_torn_lock_is_not_taken_silently(tmp_path):
    path = tmp_path / "driver.lock"
    path.write_text("{")
    with pytest.raises(CampaignLocked), CampaignLock(path):
        pass
