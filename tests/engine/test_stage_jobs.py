"""A stage that would leave most of a large allocation idle gets a smaller job of its own."""

from __future__ import annotations

import copy
from typing import Any

from site_cases import FRONTIER_PAID, PLAIN, site
from workflow_cases import workflow

from gfm_pipeline.engine.resources.requirements import Resources, decide_for_stages, decide_resources
from gfm_pipeline.engine.resources.stage_jobs import jobs_of, with_own_jobs
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
