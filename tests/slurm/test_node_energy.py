"""Energy on a real Slurm: what tasks, idle nodes and overhead used is what the counters of the job's nodes counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from machines import FRONTIER

sys.path[:0] = [p for p in (str(Path(__file__).parent.parent),) if p not in sys.path]

import ticking  # noqa: E402

from gfm_pipeline.campaign import events as ev  # noqa: E402
from gfm_pipeline.campaign.journal import read  # noqa: E402
from gfm_pipeline.campaign.state import load_state  # noqa: E402
from gfm_pipeline.campaign.usage import usage  # noqa: E402
from gfm_pipeline.core.contracts.energy import EnergyLabel  # noqa: E402
from gfm_pipeline.report.build import build_view  # noqa: E402
from gfm_pipeline.report.markdown import render_markdown  # noqa: E402

pytestmark = pytest.mark.slow
NODES = 4


def test_tasks_idle_nodes_and_overhead_are_the_allocation(start, tmp_path):
    """Every node of the bed has the same counter: one that goes on by itself, at a power that swings."""
    with ticking.TickingCounter(tmp_path / "counters") as counter:
        run = start(FRONTIER, "resident", nodes=NODES, step_seconds=0.05, energy=counter.root)
        run.to_the_end()
    entries = list(read(run.journal))
    begun = next(e for e in entries if e.kind == "nodes-held")
    since, until = begun.data["since"], next(e.t for e in entries if e.kind == "driver-ended")
    assert begun.data["nodes"] == NODES
    assert since is not None
    counted = NODES * (ticking.joules(until) - ticking.joules(since))
    state = load_state(run.journal)
    used = usage(state, state.last_event, alive=False)
    assert used.energy.joules == pytest.approx(counted, rel=0.01)
    assert abs(used.difference) < 0.01
    whole = [e for e in run.events() if isinstance(e, ev.TaskEnded) and e.task.startswith(("c0", "m0"))]
    assert all(e.energy.label is EnergyLabel.MEASURED for e in whole)  # of whole nodes
    sizes = {e.node_seconds / e.seconds for e in whole}
    assert {round(size) for size in sizes} == {1, 2}
    view = build_view(run.campaign)
    assert abs(view.energy.difference) < 0.01
    assert "The nodes counted" in render_markdown(view)
