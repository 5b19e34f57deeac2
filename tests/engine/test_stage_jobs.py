"""A stage that would leave most of a large allocation idle gets a smaller job of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from site_cases import FRONTIER_PAID, PLAIN, site
from workflow_cases import workflow

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.resources.requirements import Resources, decide_for_stages, decide_resources
from gfm_pipeline.engine.resources.stage_jobs import jobs_of, rest_job, smaller_job, with_own_jobs
from gfm_pipeline.engine.stages.trials import task_name
from gfm_pipeline.workflow.resource_sections import AllocationModel
from gfm_pipeline.workflow.schema import WorkflowModel

WIDE: dict[str, Any] = {
    "search__candidates": 2600,
    "search__space__batch_size": [1024, 2048],
    "converge__members": 8,
    "resources": {"search": {"nodes": 82}},
}


def split(machine: dict[str, Any] = FRONTIER_PAID, allocation: dict[str, Any] | None = None) -> WorkflowModel:
    """Return a wide campaign with the allocation that it runs in."""
    model = workflow(**WIDE, allocation=allocation or {"nodes": 8192, "hours": 12})
    found = decide_resources(model, site(machine))
    assert isinstance(found, Resources), found
    return model.model_copy(update={"allocation": with_own_jobs(model, site(machine), found)})


def nodes(model: WorkflowModel, machine: dict[str, Any] = FRONTIER_PAID) -> dict[str, int]:
    return {stage: job.nodes for stages, job in jobs_of(model, site(machine)) for stage in stages}


def test_only_the_search_has_the_whole_machine():
    model = split()
    found = nodes(model)
    assert (found["ingest"], found["search"], found["calibrate"]) == (1, 8192, 1)
    assert found["converge"] - int(found["converge"] * 0.01) == 8 * 128  # nodes that batches of 1,024 keep busy
    whole = decide_resources(model, site(FRONTIER_PAID))
    assert isinstance(whole, Resources)
    own = decide_for_stages(model, site(FRONTIER_PAID), whole, ["converge"])
    assert isinstance(own, Resources)
    assert own.sizes["converge"][0].shape == whole.sizes["converge"][0].shape  # as in the whole machine
    assert model.allocation.stages["ingest"].hours == 2.0  # what the queue gives one node, not 12 h
    assert model.allocation.stages["converge"].hours == 12.0


def test_what_a_workflow_says_is_kept():
    given = {"nodes": 8192, "hours": 12, "stages": {"converge": {"nodes": 8192}, "ingest": {"nodes": 2, "hours": 1}}}
    found = nodes(split(allocation=given))
    assert found == {"ingest": 2, "search": 8192, "converge": 8192, "calibrate": 1}
    assert set(nodes(split(allocation={"nodes": 8192, "hours": 12, "split_nodes": None})).values()) == {8192}
    assert set(nodes(split(allocation={"nodes": 8192, "hours": 12, "split_nodes": 10_000})).values()) == {8192}


def test_jobs_stay_whole_where_no_job_can_follow_another():
    machine = copy.deepcopy(FRONTIER_PAID)
    machine["scheduler"]["queues"]["batch"]["chaining"] = False
    assert set(nodes(split(machine), machine).values()) == {8192}
    model = workflow(**{k: v for k, v in WIDE.items() if k != "resources"})
    found = decide_resources(model, site(PLAIN))
    assert isinstance(found, Resources)
    assert with_own_jobs(model, site(PLAIN), found) == model.allocation
    assert list(jobs_of(model, site(PLAIN))) == []


def test_the_last_trainings_get_a_job_only_when_few_of_all_that_follow_are_left():
    """A wave that waits for one candidate of four nodes is not the end of a search: its promotions need 16 each."""
    model = workflow(
        search__candidates=250, search__rungs=[40, 80, 160], search__reduction=5, search__space__batch_size=[1024],
        resources={"search": {"nodes": [4, 8, 16]}}, allocation={"nodes": 1024, "hours": 12},
    )  # fmt: skip
    machine = site(FRONTIER_PAID)
    found = decide_resources(model, machine)
    assert isinstance(found, Resources), found
    context = Context(model, (), {}, 252, 1, CampaignPaths(Path("/nowhere")), found.sizes)
    state, names = CampaignState(), [f"c{number:05d}" for number in range(250)]
    for stage, key in (("ingest", "i"), ("search", "s")):
        state.apply(ev.StageOpened(stage, key, {}, {}, 4), 0.0)
    state.apply(ev.StageDone("i", {}), 0.0)
    state.apply(ev.WaveProposed("s", 0, tuple(ev.Candidate(n, 0, {}) for n in names), "", 0), 0.0)

    def train(rung: int, chosen: list[str]) -> None:
        for name in chosen:
            state.apply(ev.TaskStarted("s", task_name(name, rung), 1), 0.0)
            ended = ev.TaskEnded("s", task_name(name, rung), 1, ev.AttemptOutcome.OK, 900.0, action=ev.Action.ACCEPT)
            state.apply(ended, 1.0)

    train(0, names[:249])
    assert rest_job(context, state, machine, 1024, 1.0) is None  # 50 trainings of 8 nodes, ten of 16
    train(0, names[249:])
    state.apply(ev.RungDecided("s", 0, 0, tuple(names[:50]), {}), 2.0)
    train(1, names[:50])
    state.apply(ev.RungDecided("s", 0, 1, tuple(names[:10]), {}), 2.0)
    rest = rest_job(context, state, machine, 1024, 2.0)
    assert rest is not None
    assert (rest.nodes, rest.hours) == (161, 6.0)  # ten trainings of 16 nodes, and one in a hundred spare


def test_a_smaller_job_is_long_enough_for_its_trainings_if_the_queue_has_one():
    """Frontier gives up to 91 nodes two hours, up to 183 six hours, and more nodes twelve."""
    machine, whole = site(FRONTIER_PAID), AllocationModel(nodes=1024, hours=12)

    def job(held: int, hours: float) -> tuple[int, float | None]:
        found = smaller_job(machine, whole, 16, held, 12.0, hours * 3600.0)
        assert found is not None
        return found.nodes, found.hours

    assert job(1024, 1.0) == (16, 2.0)
    assert job(1024, 3.0) == (92, 6.0)
    assert job(1024, 8.0) == (184, 12.0)
    assert job(300, 3.0) == (16, 2.0)  # 92 nodes are more than a quarter: the trainings go on in several jobs
