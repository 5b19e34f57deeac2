"""What each stop rested on and saved, from the journal alone."""

from __future__ import annotations

import pytest
from plain_results import plain_result

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.state import fold
from gfm_pipeline.core.contracts.energy import EnergyLabel, EnergyUse
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.report.stops import saved_cost, stops

OBJECTIVES = [0.5, 0.9, None, 0.7, 0.4, 0.6]
HOUR, KWH = 3600.0, 3.6e6


def trained(name, objective):
    ended = ev.AttemptOutcome.OK if objective is not None else ev.AttemptOutcome.DIVERGED
    energy = EnergyUse(2 * KWH, None, EnergyLabel.MEASURED, "counters", 4 * HOUR)
    result = plain_result(TrainResult, objective=objective, objective_error=0.05)
    return [
        ev.TaskStarted("s", name, 1),
        ev.TaskEnded("s", name, 1, ended, HOUR, result=result, node_seconds=4 * HOUR, energy=energy),
    ]


@pytest.fixture(scope="module")
def stage():
    """Return a search of two proposals, whose second decision revives a candidate that the first one stopped."""
    events = [ev.StageOpened("search", "s", {"candidates": 6, "rungs": [100, 300]}, {}, 4)]
    for wave in (0, 1):
        chosen = tuple(ev.Candidate(f"c{k}", 0, {"algorithm": "EGNN"}) for k in range(3 * wave, 3 * wave + 3))
        events.append(ev.WaveProposed("s", wave, chosen, "random", 0, 1))
        for candidate in chosen:
            events += trained(f"{candidate.name}-r0", OBJECTIVES[int(candidate.name[1])])
    events.append(ev.RungDecided("s", 1, 0, ("c4",), {"c3": "worse", "c5": "worse"}))
    events.append(ev.RungDecided("s", 0, 0, ("c0", "c5"), {"c1": "worse", "c2": "no objective"}))
    return fold((float(n), event) for n, event in enumerate(events)).stages["s"]


def test_each_stop_has_rung_value_threshold_rank_and_what_it_saved(stage):
    found = stops(stage)
    assert list(found) == ["c3", "c1", "c2"]  # c5 was promoted after all
    first = found["c3"]
    assert (first.rung, first.value, first.threshold, first.rank, first.of) == (0, 0.7, 0.4, 3, 3)
    # 100 graphs took 4 node-hours and 2 kWh; 200 are left.
    assert (first.saved_graphs, first.saved_node_hours, first.saved_kwh) == (200, 8.0, 4.0)
    assert first.error == 0.05
    later = found["c1"]
    assert (later.value, later.threshold, later.rank, later.of) == (0.9, 0.6, 5, 6)
    assert (found["c2"].value, found["c2"].rank) == (None, None)


def test_what_stopping_saved_is_said_in_a_sentence(stage):
    assert saved_cost(stops(stage).values()) == ", about 24 node-hours and 12 kWh"
    assert saved_cost([]) == ""
