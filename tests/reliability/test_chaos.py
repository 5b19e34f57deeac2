"""`run --chaos`: tasks are killed, robbed of their workers, slowed and starved, and the campaign ends the same."""

from __future__ import annotations

import re
import subprocess
from collections import Counter

import pretended
import pytest
import runs

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.contracts.task import (
    CHAOS_FILE,
    EXIT_FILE,
    WRAPPER_FILE,
    ExitCode,
    ExitRecord,
    WrapperRecord,
)
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.processes import ProcessId
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.engine import chaos
from gfm_pipeline.engine.chaos import ChaosKind, ChaosPlan
from gfm_pipeline.engine.tasks.classify import classify

LONG = f"""\
name: {pretended.NAME}
seed: 11
data:
  sources:
    alloys:
      reader: emt-alloys
      shards: 4
search:
  candidates: 8
  asynchronous: false
  rungs: [400, 1600]
  reduction: 2
  space:
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    hidden: [8, 16]
    learning_rate: {{low: 1e-3, high: 1e-2, scale: log}}
converge:
  members: 3
  check_every: 400
  max_graphs: 12000
"""
RATE = 60  # a minute


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_campaign_survives_chaos_with_the_same_result(tmp_path):
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    beside = runs.start(calm, *pretended.write_campaign(calm, LONG))
    runs.finish(wild, *pretended.write_campaign(wild, LONG), "--chaos", f"7:{RATE}")
    assert beside.wait(timeout=400) == 0
    pretended.assert_same(wild, calm)
    assert runs.processes_of(wild) == []

    log = (wild / "driver.log").read_text()
    told = Counter(ChaosKind(k) for k in re.findall(r"chaos: \S+ is (.+)", log))
    assert set(told) == set(ChaosKind), "not every kind of fault struck"
    assert told.total() >= 15
    assert f"Chaos: {told.total()} tasks were hit" in log
    assert "Traceback" not in log
    causes = Counter(e.cause for e in runs.events(pretended.journal_of(wild)) if isinstance(e, ev.TaskEnded))
    assert set(causes) == {ev.Cause.FINISHED, ev.Cause.CHAOS}
    assert 0 < causes[ev.Cause.CHAOS] <= told.total() - told[ChaosKind.SLOW]


def test_a_strike_that_misses_leaves_the_note_of_one_that_hit(tmp_path, monkeypatch):
    """An attempt that is starved may be struck again in the moment it ends of that."""
    gone = ProcessId("nowhere", "no such boot", 2**22 + 1, "1")
    attempt = tmp_path / "attempt-1"
    attempt.mkdir()
    write_record(attempt / WRAPPER_FILE, WrapperRecord(gone, gone))
    monkeypatch.setattr(chaos, "attempts_left", lambda _: [attempt])
    striker = chaos.Chaos(ChaosPlan(1, 1.0), CampaignPaths(tmp_path), lambda _: None)
    for kind in (ChaosKind.KILL, ChaosKind.WORKER):
        assert not striker._strike(kind)
        assert not (attempt / CHAOS_FILE).exists()
    (attempt / CHAOS_FILE).write_text("chaos: the disk refused (EIO)")
    for kind in (ChaosKind.KILL, ChaosKind.WORKER):
        assert not striker._strike(kind)
        assert (attempt / CHAOS_FILE).read_text() == "chaos: the disk refused (EIO)"


@pytest.mark.parametrize("text", ["", "7", "7:", ":7", "a:b", "7:0", "7:-1", "7:1e9", "7:nan", "1.5:7"])
def test_nonsense_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError, match="SEED:RATE"):
        ChaosPlan.parse(text)


def test_the_help_tells_of_it_and_a_run_refuses_nonsense_before_it_writes(tmp_path):
    shown = subprocess.run(runs.command("run", "--help"), capture_output=True, text=True, check=True).stdout
    assert "--chaos SEED:RATE" in shown
    assert "--fault" not in shown
    arguments = pretended.write_campaign(tmp_path)
    done = subprocess.run(
        runs.command(*arguments, "--chaos", "x"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "campaigns").exists()


@pytest.mark.parametrize(
    ("code", "cause"),
    [(-9, ev.Cause.CHAOS), (ExitCode.RETRYABLE, ev.Cause.CHAOS), (ExitCode.PERMANENT, ev.Cause.PROGRAM_ERROR)],
)
def test_a_note_of_chaos_excuses_what_chaos_can_do_and_nothing_else(tmp_path, code, cause):
    write_record(tmp_path / EXIT_FILE, ExitRecord(int(code), False, 1.0, out_of_memory=False))
    assert classify(tmp_path).cause is not ev.Cause.CHAOS
    (tmp_path / CHAOS_FILE).write_text("chaos: killed")
    assert classify(tmp_path).cause is cause
