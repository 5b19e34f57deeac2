"""Scenarios by which users of other systems lost work, by name."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pretended
import pytest
import runs
from test_lost_tasks import started

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import Cause
from gfm_pipeline.core.contracts.attempts.records import EXIT_FILE

pytestmark = pytest.mark.slow
sys.path.insert(0, str(Path(__file__).parent.parent / "execution"))

BATCH_SITE = """\
extends: slurm
name: fake
description: Commands that stand in for those of Slurm
nodes: 2
node: {cores: 8, memory_gb: 16}
scheduler:
  account_required: false
  queues: {batch: {partition: batch, bins: [{max_nodes: 2, max_hours: 2}], as_of: 2026-11, source: test}}
  default_queue: batch
driver: {interface: null, address: 127.0.0.1}
"""


def test_preemption_followed_by_resume_repeats_nothing(tmp_path):
    """Attempts are preempted and succeed at their second try; the driver dies and comes back: those results count.

    Elsewhere the first attempt of a task was looked up, which had been preempted, and the task ran again.
    """
    driver = started(tmp_path, "search.rungs=[2000, 3000]", "converge.max_graphs=4000")  # a second each
    driver.send_signal(signal.SIGTERM)  # as a batch system's preemption does
    assert driver.wait(60) == 3
    journal = pretended.journal_of(tmp_path)
    preempted = {t for t, story in runs.starts(journal).items() if story[-1] == "preempted"}
    assert preempted
    campaign = str(pretended.campaign_of(tmp_path))
    again = runs.start(tmp_path, "resume", campaign)
    ended = lambda e: isinstance(e, ev.TaskEnded) and e.cause is Cause.FINISHED and e.task in preempted  # noqa: E731
    runs.wait_for(journal, ended)
    runs.kill(again)
    runs.finish(tmp_path, "resume", campaign)
    before = runs.starts(journal)
    assert all(before[task][:2] == ["start", "preempted"] for task in preempted)
    assert all(story.count("ok") == 1 and story[-1] == "ok" for story in before.values())
    runs.finish(tmp_path, "resume", campaign)
    assert runs.starts(journal) == before


def test_results_that_were_finished_when_the_allocation_was_cancelled_are_recorded(uninterrupted, tmp_path):
    """Everything of the allocation is killed while the driver cannot listen; what had finished is not run again."""
    driver = started(tmp_path)
    driver.send_signal(signal.SIGSTOP)
    records: list[Path] = []
    while len(records) < 2:  # both trainings at work end while nobody hears of it
        records = list(tmp_path.glob(f"campaigns/*/stages/search-*/tasks/c0*/attempt-1/{EXIT_FILE}"))
    driver.kill()
    driver.wait()
    journal = pretended.journal_of(tmp_path)
    unrecorded = {r.parent.parent.name for r in records} - {
        e.task for e in runs.events(journal) if isinstance(e, ev.TaskEnded)
    }
    assert unrecorded
    runs.finish(tmp_path, "resume", str(pretended.campaign_of(tmp_path)))
    pretended.assert_same(tmp_path, uninterrupted)
    assert all(runs.starts(journal)[task] == ["start", "ok"] for task in unrecorded)


def test_two_submissions_in_the_same_second_are_one_job(tmp_path):
    import fake_batch

    environment = fake_batch.install(tmp_path / "batch", "sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
    (tmp_path / "batch" / "nodes").write_text("")
    (tmp_path / "w.yaml").write_text(pretended.SHORT + "allocation: {nodes: 1, hours: 1}\n")
    (tmp_path / "site.yaml").write_text(BATCH_SITE)
    words = runs.command("submit", "w.yaml", "--site", "site.yaml")
    both = [
        subprocess.Popen(
            words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 75]), said
    assert len(fake_batch.submitted(tmp_path / "batch")) == 1
    assert sum("Submitted job" in text for text in said) == 1
    other = next(text for text in said if "Submitted job" not in text)
    assert "in the queue already" in other or "is already being driven" in other, other
