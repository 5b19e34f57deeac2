"""Estimates say what they rest on, and follow from it."""

from __future__ import annotations

import pytest
from site_cases import FRONTIER, FRONTIER_PAID, PLAIN, site
from workflow_cases import workflow

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import AttemptOutcome
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.estimates import Estimates, estimate, seconds_a_graph
from gfm_pipeline.engine.resources.requirements import Resources, decide_resources

GRAPHS = {"search": 7200, "converge": 0}


def driven(on: str, *rates: float | None) -> CampaignState:
    """Return the state after trainings with these rates (graphs/s) on a site."""
    state = CampaignState()
    info = ev.DriverStarted("host", 1, on, "0", 1, None, "w.yaml")
    happened = [info, ev.StageOpened("search", "key", {}, {}, 1)]
    for number, rate in enumerate(rates):
        name = f"c{number:05d}-r0"
        result = {"objective": 0.5, **({} if rate is None else {"graphs_per_second": rate})}
        happened += [ev.TaskStarted("key", name, 1), ev.TaskEnded("key", name, 1, AttemptOutcome.OK, 9.0, "", result)]
    for time, event in enumerate(happened):
        state.apply(event, float(time))
    return state


def estimated(plain, state: CampaignState, graphs=GRAPHS, input_bytes=0, **changes) -> Estimates:
    asked, machine = workflow(**changes), site(plain)
    resources = decide_resources(asked, machine)
    assert isinstance(resources, Resources)
    return estimate(asked, machine, resources, state, graphs, input_bytes)


def test_the_allocation_bounds_what_one_job_uses():
    found = estimated(FRONTIER_PAID, CampaignState(), allocation={"nodes": 10, "hours": 1.5})
    assert found.node_hours.value == 15.0
    assert "at most, for one job: 10 nodes for 1.5 h" in found.node_hours.basis
    assert found.kwh.value == pytest.approx(15 * 2.5 * 1.1)
    blocks = estimated(FRONTIER_PAID, CampaignState(), allocation={"nodes": 10, "hours": 1, "blocks": 3})
    assert blocks.node_hours.value == 30.0


def test_rates_of_the_campaign_are_used_once_they_are_known():
    state = driven("frontierlike", 2.0, 0.5, None)
    seconds, count = seconds_a_graph(state, "frontierlike") or (0.0, 0)
    assert (seconds, count) == (1.25, 2)  # the mean of 0.5 and 2 seconds
    found = estimated(FRONTIER_PAID, state, allocation={"nodes": 4}, resources={"search": {"nodes": 2}})
    assert found.node_hours.value == pytest.approx(7200 * 1.25 * 2 / 3600)
    assert "the rate of 2 trainings" in found.node_hours.basis
    small = estimated(FRONTIER_PAID, state, allocation={"nodes": 1}, resources={"search": {"nodes": 0}})
    assert small.node_hours.value == pytest.approx(7200 * 1.25 / 4 / 3600)  # its 4 candidates share the node


def test_rates_of_another_machine_are_not():
    assert seconds_a_graph(driven("elsewhere", 2.0), "frontierlike") is None
    assert seconds_a_graph(CampaignState(), "frontierlike") is None
    assert seconds_a_graph(driven("frontierlike", None), "frontierlike") is None


def test_what_nothing_is_known_of_is_not_guessed():
    found = estimated(PLAIN, CampaignState())
    assert found.node_hours.value is None
    assert found.kwh.value is None
    dark = {**FRONTIER_PAID, "energy": {}}
    assert estimated(dark, CampaignState()).kwh.value is None
    assert "no power model" in estimated(dark, CampaignState()).kwh.basis


def test_a_machine_without_nodes_has_watts_by_slot():
    plain = PLAIN | {"slots": 4, "threads_per_task": 2, "energy": {"core_watts": 10, "pue": 1.5}}
    found = estimated(plain, driven("here", 1.0))
    # 7,200 graphs at 1 s on a quarter of the machine, which draws 4 x 20 W when busy.
    assert found.node_hours.value == pytest.approx(0.5)
    assert found.kwh.value == pytest.approx(0.5 * 0.08 * 1.5)


def test_nothing_left_costs_nothing():
    found = estimated(FRONTIER | {"scheduler": FRONTIER_PAID["scheduler"]}, CampaignState(), graphs={})
    assert (found.node_hours.value, found.kwh.value) == (0.0, 0.0)


def test_storage_grows_with_the_largest_model_and_the_input():
    small = estimated(FRONTIER_PAID, CampaignState(), search__space__hidden=[16], search__space__layers=2)
    large = estimated(FRONTIER_PAID, CampaignState(), search__space__hidden=[16, 32], search__space__layers=2)
    assert (small.storage_bytes.value or 0) * 4 == large.storage_bytes.value
    fed = estimated(
        FRONTIER_PAID, CampaignState(), input_bytes=10**9, search__space__hidden=[16], search__space__layers=2
    )
    assert (fed.storage_bytes.value or 0) - (small.storage_bytes.value or 0) == 2 * 10**9
