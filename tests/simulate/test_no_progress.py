"""Simulated campaigns that cannot end well end with a sentence and an exit code; long ones tell how far they are."""

from __future__ import annotations

import json

import pytest
from simulations import run, simulation

from gfm_pipeline.cli.main import invoke
from gfm_pipeline.simulate import campaign_run, watcher
from gfm_pipeline.simulate.request import simulated

HOPELESS = ("scenario.failures.mean_hours=0.001", "scenario.failures.at_gpus=32")  # a node fails every 3.6 s


def test_jobs_whose_nodes_fail_before_any_work_is_saved_end_the_simulation(tmp_path):
    found = run(tmp_path, *HOPELESS)
    assert found.failed
    assert found.outcome.startswith("failed: In 3 jobs in a row no task finished and none saved anything (")
    assert found.jobs == 4


def test_blocks_whose_nodes_fail_end_the_simulation_too_and_no_task_needs_a_node_that_is_down(tmp_path):
    """Tasks go to nodes that have failed unnoticed, until no node of the block is left: they are lost there."""
    found = run(tmp_path, "scenario.failures.mean_hours=0.02", "scenario.failures.at_gpus=32", mode="pilot")
    assert found.failed
    assert "IndexError" not in found.outcome
    assert sum(found.uses.values()) == pytest.approx(found.node_hours, rel=0.02)


def test_a_budget_that_is_spent_ends_the_simulation(tmp_path):
    """Each further job would stop at once: there were as many of them as one waited for."""
    found = run(tmp_path, "budget.node_hours=0.5")
    assert found.outcome.startswith("failed: ")
    assert "the budget is spent" in found.outcome
    assert found.jobs <= 2


def test_progress_that_takes_too_many_jobs_ends_the_simulation(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign_run, "MOST_JOBS", 2)
    found = run(tmp_path, "allocation.hours=0.4", "scenario.cost.scale=20")
    assert found.outcome == "failed: After 2 jobs the campaign is not done (0 nodes failed)."


def test_a_long_simulation_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(watcher, "PROGRESS_SECONDS", 0.0)
    told: list[str] = []
    simulated(simulation(tmp_path, "scenario.hours=0.3"), told.append, compare=False)
    assert any(line.endswith("h: ingest, 0 tasks ended, 0 candidates (Ctrl-C ends it)") for line in told), told[:3]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_the_exit_code_tells_that_the_simulated_campaign_failed(tmp_path, capsys, more):
    asked = simulation(tmp_path, *HOPELESS)
    sets = [word for one in asked.overrides for word in ("--set", one)]
    assert invoke(["simulate", str(asked.workflow), "--site", asked.site, *sets, *more]) == 1
    out = capsys.readouterr().out
    outcome = json.loads(out)["outcome"] if more else out
    assert "no task finished" in outcome
