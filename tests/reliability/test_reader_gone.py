"""A campaign whose progress nobody reads any more goes on to its end."""

import shlex
import subprocess

import pretended
import pytest
import runs

from gfm_pipeline.campaign import events as ev


@pytest.mark.slow
def test_a_campaign_outlives_who_reads_its_progress(tmp_path):
    arguments = pretended.write_campaign(tmp_path, pretended.SHORT)
    line = f"{shlex.join(runs.command(*arguments))} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    last = runs.events(pretended.journal_of(tmp_path))[-1]
    assert last == ev.DriverEnded("done")
