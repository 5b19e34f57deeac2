"""What a campaign used, by its journal: node-hours, and energy that a batch system accounted for."""

from __future__ import annotations

import pytest

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.state import fold
from gfm_pipeline.campaign.usage import usage
from gfm_pipeline.core.contracts.energy import EnergyLabel, EnergyUse

DRIVER = ev.DriverStarted("h", 1, "s", "1", 2, None, "w.yaml", job="77", node_watts=500.0, idle_watts=100.0)
USED = EnergyUse(400.0, None, EnergyLabel.MODELLED, "node model", 6.0)


def ended(energy: EnergyUse | None, outcome=ev.AttemptOutcome.OK, action=ev.Action.ACCEPT) -> ev.TaskEnded:
    return ev.TaskEnded("k", "t", 1, outcome, 3.0, action=action, node_seconds=6.0, energy=energy)


def job(*after: tuple[float, ev.Event], energy: EnergyUse | None = USED) -> list[tuple[float, ev.Event]]:
    return [
        (0.0, ev.CampaignCreated(1, "n", "1")),
        (1.0, ev.JobIntended("gfm-n-1", ev.JobRole.DRIVER, 2, 1.0, "q")),
        (2.0, ev.JobSubmitted("gfm-n-1", "77")),
        (10.0, DRIVER),
        (10.0, ev.NodesHeld("here", 2, 8.0)),
        (11.0, ev.StageOpened("search", "k", {}, {}, 2)),
        (12.0, ev.TaskStarted("k", "t", 1, ("a", "b"))),
        (15.0, ended(energy)),
        (18.0, ev.DriverEnded("done")),
        *after,
    ]


def test_nodes_count_from_the_beginning_of_their_job():
    used = usage(fold(job()), 100.0, alive=False)
    assert used.node_seconds == 2 * (18.0 - 8.0)
    assert used.stages["search"].node_seconds == 6.0
    assert used.hours == pytest.approx(8.0 / 3600)
    assert used.tasks == USED
    assert used.overhead.joules == 100.0 * (20.0 - 6.0)  # by the power of idle nodes
    assert used.allocation is None


def test_what_slurm_accounted_is_dealt_out_by_time_where_nothing_was_counted():
    used = usage(fold(job((20.0, ev.JobEnergy("gfm-n-1", 5000.0, "slurm")))), 100.0, alive=False)
    assert used.energy.joules == pytest.approx(5000.0)
    assert used.tasks.joules == pytest.approx(5000.0 * 6 / 20)
    assert {use.label for use in (used.tasks, used.overhead, used.allocation)} == {EnergyLabel.ATTRIBUTED}
    assert used.difference == pytest.approx(0.0)


def test_counters_win_over_what_was_accounted():
    counted = EnergyUse(2000.0, 5.0, EnergyLabel.MEASURED, "pm_counters", 20.0)
    events = job((19.0, ev.JobEnergy("gfm-n-1", 5000.0, "slurm")))
    events.insert(-2, (17.0, ev.NodesMeasured(counted)))
    assert usage(fold(events), 100.0, alive=False).allocation == counted


def test_an_attempt_without_result_is_overhead():
    lost = ended(EnergyUse(50.0, 1.0, EnergyLabel.MEASURED, "nvml", 6.0), ev.AttemptOutcome.RETRYABLE, ev.Action.RETRY)
    events = [(t, lost if isinstance(e, ev.TaskEnded) else e) for t, e in job()]
    used = usage(fold(events), 100.0, alive=False)
    assert used.tasks is None
    assert used.overhead.joules == 50.0 + 100.0 * 14.0


def test_a_driver_that_died_held_its_nodes_to_its_last_event():
    events = [*job()[:-1], (200.0, DRIVER), (201.0, ev.NodesHeld("here", 2)), (203.0, ev.DriverEnded("done"))]
    assert usage(fold(events), 300.0, alive=False).node_seconds == 2 * (15.0 - 8.0) + 2 * 2.0
