"""Stages in jobs of their own size, on a real Slurm: a small one reads, a large one trains, a small one trains last."""

from __future__ import annotations

import pytest
from bed_campaigns import pretended
from machines import FRONTIER

from gfm_pipeline.campaign import events as ev

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_ingest_runs_in_a_small_job_and_the_rest_in_a_large_one(start, whole):
    run = start(
        FRONTIER, "resident", nodes=3, search=(1, 2), converge=2, stages="{ingest: {nodes: 1}, calibrate: {nodes: 1}}"
    )
    run.to_the_end()
    pretended.assert_same(run.folder, whole)
    held, by_stage = 0, {}
    for event in run.events():
        if isinstance(event, ev.NodesHeld):
            held = event.nodes
        elif isinstance(event, ev.StageOpened):
            by_stage[event.stage] = held
    assert by_stage == {"ingest": 1, "search": 3, "converge": 3, "calibrate": 1}


def test_the_last_trainings_of_a_stage_go_on_in_a_smaller_job(start, whole):
    run = start(FRONTIER, "resident", nodes=4, search=(1, 1), converge=1, stages="{}, split_nodes: 2, split_seconds: 0")
    run.pace(0.3, "m00")  # the other member ends long before
    run.to_the_end()
    pretended.assert_same(run.folder, whole)
    events = run.events()
    jobs = [event.nodes for event in events if isinstance(event, ev.NodesHeld)]
    assert jobs[0] == 1  # reads
    assert 4 in jobs
    trained_on, held = [], 0
    for event in events:
        if isinstance(event, ev.NodesHeld):
            held = event.nodes
        elif isinstance(event, ev.TaskEnded) and event.outcome is ev.AttemptOutcome.OK and event.task.startswith("m"):
            trained_on.append(held)
    assert min(trained_on) < max(trained_on), "no member ended in a smaller job"
