"""A campaign that ran on a real Slurm, and the simulation that its journal was fitted to, take the same time."""

from __future__ import annotations

import pytest
from bed_campaigns import WORKFLOW
from machines import PERLMUTTER

from gfm_pipeline.simulate.request import SimulationRequest, simulated

pytestmark = pytest.mark.slow
CANDIDATES = (
    WORKFLOW.replace("candidates: 4", "candidates: 12")
    .replace("wave: 2", "wave: 6\n  proposals: random")
    .replace("rungs: [100, 200]", "rungs: [1000, 3000]")
    .replace("reduction: 2", "reduction: 3")
    .replace("check_every: 100", "check_every: 1000")
    .replace("max_graphs: 400", "max_graphs: 4000\n  criterion: limit\n  anneal_fraction: 0.001")
)
WITHIN = 0.10
BUSY = 0.30  # what a busy machine may add to a campaign that a fitted mean cannot know


@pytest.mark.parametrize("mode", ["resident", pytest.param("pilot", marks=pytest.mark.long)])
def test_a_campaign_and_its_simulation_agree(start, mode):
    """A machine that is busy for a while stretches some tasks: the second campaign has to agree then."""
    for attempt in ("first", "second"):
        run = start(PERLMUTTER, mode, within=attempt, workflow=CANDIDATES, step_seconds=0.04)
        run.to_the_end()
        request = SimulationRequest(run.folder / "w.yaml", PERLMUTTER.site, (run.overlay,), recorded=run.campaign)
        found = simulated(request, compare=False)
        assert found.outcome == "done"
        told = f"{found.hours * 3600:.1f} of {found.recorded_hours * 3600:.1f} s, {found.occupancy:.3f} of "
        told += f"{found.recorded_occupancy:.3f}\n{found.scenario['cost']}\n{run.story()}"
        off = [found.hours / found.recorded_hours - 1, found.occupancy / found.recorded_occupancy - 1]
        if max(map(abs, off)) <= WITHIN:
            return
        assert max(map(abs, off)) <= BUSY, told
    raise AssertionError(told)
