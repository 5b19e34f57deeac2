"""Stages in jobs of their own size, on a real Slurm: a small one reads, and hands over to the large one that trains."""

from __future__ import annotations

import pytest
from bed_campaigns import pretended
from machines import FRONTIER

from gfm_pipeline.campaign import events as ev

pytestmark = pytest.mark.slow


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
