"""What campaigns get of a machine: from a laptop to 8,192 nodes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from site_cases import FRONTIER, FRONTIER_PAID, HOSTS, PERLMUTTER, PLAIN, TILES, site
from workflow_cases import workflow

from gfm_pipeline.engine.resources.allocation import Impossible, SettingKey
from gfm_pipeline.engine.resources.requirements import Resources, decide_resources, smallest_batch
from gfm_pipeline.engine.stages.search_size import wave_target
from gfm_pipeline.engine.stages.table import NAMES
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.task_shape import TaskShape, misfit

MACHINES = [
    FRONTIER_PAID,
    *({**m, "scheduler": m["scheduler"] | {"account": "abc"}} for m in (PERLMUTTER, HOSTS, TILES)),
    PLAIN,
]


def decided(machine: dict[str, Any] = FRONTIER_PAID, **changes: Any) -> Resources:
    found = decide_resources(workflow(**changes), site(machine))
    assert isinstance(found, Resources), found
    return found


def of(found: Resources, stage: str = "search"):
    (size,) = found.sizes[stage]
    return size.strategy, size.shape, found.at_a_time(stage)


def test_a_laptop_has_its_slots():
    found = decided(PLAIN | {"slots": 3})
    for stage in NAMES:
        assert of(found, stage) == (LaunchStrategy.SPAWN, TaskShape(0, 1, 0, 0), 3)
    assert (found.allocation.nodes, found.allocation.hours) == (1, None)


def test_a_workstation_with_gpus_gives_each_trial_one():
    machine = PLAIN | {"node": {"gpus": 2}, "gpu": {"runtime": "cuda", "visible_variable": "CUDA_VISIBLE_DEVICES"}}
    found = decided(machine | {"slots": 6}, search__wave=2)
    assert of(found) == (LaunchStrategy.SPAWN, TaskShape(0, 1, 1, 0), 2)
    assert of(found, "ingest") == (LaunchStrategy.SPAWN, TaskShape(0, 1, 0, 0), 6)


def test_an_automatic_allocation_keeps_a_wave_busy():
    found = decided(search__candidates=64)  # waves of 16: two nodes of eight GPUs
    assert (found.allocation.nodes, found.allocation.hours, found.allocation.queue) == (2, 2.0, "batch")
    assert of(found) == (LaunchStrategy.SPAWN, TaskShape(0, 1, 1, 7), 16)
    explicit = decided(search__wave=4, resources={"search": {"nodes": 2}}, search__space__batch_size=[16])
    assert explicit.allocation.nodes == 8
    assert of(explicit) == (LaunchStrategy.STEP, TaskShape(2, 8, 1, 7), 4)


def test_more_small_trainings_than_launches_share_them():
    few = {**FRONTIER_PAID, "launch": FRONTIER_PAID["launch"] | {"max_steps": 2, "max_sub_node_nodes": 1}}
    asked = {"search": {"nodes": [1, 2]}}
    found = decided(
        few, resources=asked, allocation={"nodes": 8}, search__candidates=16, search__space__batch_size=[16]
    )
    first, second = found.sizes["search"]
    assert (first.strategy, first.group, first.launches) == (LaunchStrategy.GROUP, 4, 2)
    assert (second.strategy, second.group, second.launches) == (LaunchStrategy.GROUP, 2, 2)


def test_spares_come_on_top():
    share = FRONTIER_PAID | {"driver": {"mode": "resident", "spare_share": 0.05}}
    found = decided(share, search__candidates=160, search__wave=160)
    assert (found.allocation.nodes, found.allocation.spare) == (21, 1)
    assert found.at_a_time("search") == 160


def test_large_batches_let_trials_have_their_share_of_the_nodes():
    found = decided(allocation={"nodes": 8192}, search__candidates=128, search__space__batch_size=[4096])
    assert found.allocation.spare == 81
    strategy, shape, at_once = of(found)
    assert (strategy, shape.nodes, at_once) == (LaunchStrategy.STEP, 8111 // 32, 32)


def test_the_cap_on_launches_sets_the_size_of_trials():
    none_spare = FRONTIER_PAID | {"driver": {"mode": "resident"}}
    found = decided(
        none_spare, allocation={"nodes": 8192}, search__candidates=4096, search__space__batch_size=[1024, 2048]
    )
    assert of(found) == (LaunchStrategy.STEP, TaskShape(82, 8, 1, 7), 99)
    assert "100 launches at a time fill 8,192 nodes" in found.why["search"]


def test_many_small_trials_share_a_launch_where_pools_do_not_reach():
    found = decided(allocation={"nodes": 8192}, search__candidates=64_000, search__space__batch_size=[16])
    strategy, shape, at_once = of(found)
    assert (strategy, shape) == (LaunchStrategy.GROUP, TaskShape(0, 4, 1, 7))
    assert at_once == 16_000  # a wave; 16,222 would fit
    one_node = decided(allocation={"nodes": 8192}, search__candidates=20_000, search__space__batch_size=[8])
    assert of(one_node) == (LaunchStrategy.GROUP, TaskShape(1, 8, 1, 7), 5_000)
    # Tasks that share nodes without being trainings run on as many nodes as pools are known to work on, and a node
    # has no more workers than there are shards for.
    assert found.at_a_time("ingest") == 2048


def test_pools_start_small_trials_where_they_reach():
    found = decided(allocation={"nodes": 2000}, search__candidates=64_000, search__space__batch_size=[16])
    assert of(found)[:2] == (LaunchStrategy.SPAWN, TaskShape(0, 1, 1, 7))


def test_no_training_has_more_ranks_than_a_batch_has_graphs():
    found = decided(allocation={"nodes": 64}, search__space__batch_size=[20, 40])
    assert of(found)[1] == TaskShape(2, 8, 1, 7)
    assert "as many as batches of 20 graphs keep busy" in found.why["search"]
    tiny = decided(allocation={"nodes": 64}, search__space__batch_size=[3])
    assert of(tiny)[1] == TaskShape(0, 2, 1, 7)
    per_algorithm = {"EGNN": {"hidden": [8], "batch_size": {"low": 4, "high": 8}}}
    assert smallest_batch(workflow(search__space__per_algorithm=per_algorithm)) == 4


def test_rungs_may_have_sizes_of_their_own():
    found = decided(
        allocation={"nodes": 8}, resources={"search": {"nodes": [0, 2]}}, search__space__batch_size=[16, 32]
    )
    assert [s.shape.nodes for s in found.sizes["search"]] == [0, 2]
    assert [found.at_a_time("search", rung) for rung in (0, 1)] == [8, 4]
    found = decided(
        allocation={"nodes": 8}, resources={"search": {"nodes": [1, 2]}}, search__space__batch_size=[16, 32]
    )
    assert {s.strategy for s in found.sizes["search"]} == {LaunchStrategy.STEP}  # both on nodes by name


def test_ranks_that_the_batch_system_would_deal_other_gpus_are_refused():
    refused = decide_resources(
        workflow(allocation={"nodes": 8}, resources={"search": {"nodes": 2, "ranks_per_node": 2}}), site(FRONTIER_PAID)
    )
    assert isinstance(refused, Impossible)
    assert refused.key == "resources.search.ranks_per_node"
    assert "8 are needed, not 2" in refused.message


def test_one_node_tasks_are_steps_where_there_are_no_pools():
    paid = PERLMUTTER | {"scheduler": PERLMUTTER["scheduler"] | {"account": "m1_g"}}
    found = decided(paid, allocation={"nodes": 4, "blocks": 2}, resources={"search": {"nodes": 1}})
    assert of(found) == (LaunchStrategy.STEP, TaskShape(1, 4, 1, 32), 8)


@pytest.mark.parametrize(
    ("machine", "changes", "key", "message", "hint"),
    [
        (FRONTIER, {}, SettingKey.ACCOUNT, "need an account", "--set site.scheduler.account=NAME"),
        (FRONTIER_PAID, {"allocation": {"queue": "bacth"}}, SettingKey.QUEUE, "no queue 'bacth'", "'batch'"),
        (
            FRONTIER_PAID | {"scheduler": FRONTIER_PAID["scheduler"] | {"kind": "pbs"}},
            {"allocation": {"nodes": 8, "blocks": 2}, "resources": {"search": {"nodes": 2}}},
            SettingKey.BLOCKS,
            "in which of several jobs",
            "allocation.blocks to 1",
        ),
        (FRONTIER_PAID, {"allocation": {"nodes": 9999}}, SettingKey.NODES, "has 9,472 nodes", "9,472 nodes or fewer"),
        (
            FRONTIER_PAID,
            {"allocation": {"nodes": 91, "hours": 12}},
            SettingKey.HOURS,
            "91 nodes or fewer get 2 h",
            "for 184 nodes to get 12 h",
        ),
        (
            FRONTIER_PAID,
            {"resources": {"search": {"nodes": 1, "ranks_per_node": 3}}},
            "resources.search.ranks_per_node",
            "3 ranks do not divide the 8 GPUs",
            "2 or 4",
        ),
        (
            FRONTIER_PAID,
            {"resources": {"converge": {"ranks_per_node": 5}}},
            "resources.converge.ranks_per_node",
            "5 ranks do not divide",
            "4 or 8",
        ),
        (
            FRONTIER_PAID,
            {"resources": {"search": {"nodes": 8}}, "allocation": {"nodes": 4}},
            "resources.search.nodes",
            "8 nodes does not fit an allocation of 4",
            "4 nodes or fewer",
        ),
        (
            FRONTIER_PAID,
            {"resources": {"converge": {"nodes": 82}}, "allocation": {"nodes": 100}},
            "resources.converge.nodes",
            "656 ranks (82 x 8) leaves some without a graph: the smallest batch_size of search.space is 16",
            "Ask for 2 nodes or fewer, or for a batch_size of 656 or more.",
        ),
        (
            PLAIN,
            {"resources": {"search": {"nodes": 2}}},
            "resources.search.nodes",
            "2 nodes does not fit",
            "1 node or fewer",
        ),
        (PLAIN, {"allocation": {"nodes": 2}}, SettingKey.NODES, "here has 1 node, not 2", "1 node or fewer"),
        (
            FRONTIER_PAID,
            {"resources": {"ingest": {"cores": 57}}},
            "resources.ingest.cores",
            "57 cores each",
            "56 cores or fewer",
        ),
        (
            FRONTIER_PAID,
            {"resources": {"calibrate": {"cores": 99}}},
            "resources.calibrate.cores",
            "99 cores",
            "56 cores or fewer",
        ),
    ],
)
def test_the_impossible_is_refused_with_the_nearest_possible(machine, changes, key, message, hint):
    found = decide_resources(workflow(**copy.deepcopy(changes)), site(machine))
    assert isinstance(found, Impossible)
    assert found.key == key
    assert message in found.message
    assert hint in found.hint


@settings(deadline=None)
@given(
    machine=st.sampled_from(MACHINES),
    nodes=st.one_of(st.just("auto"), st.integers(1, 9472)),
    candidates=st.integers(2, 20_000),
    wave=st.one_of(st.just("auto"), st.integers(1, 500)),
    batch=st.integers(1, 10_000),
)
def test_whatever_is_decided_fits(machine, nodes, candidates, wave, batch):
    asked = workflow(
        allocation={"nodes": nodes}, search__candidates=candidates, search__wave=wave, search__space__batch_size=[batch]
    )
    where = site(machine)
    found = decide_resources(asked, where)
    if isinstance(found, Impossible):
        assert nodes != "auto"
        assert found.key == SettingKey.NODES
        return
    allocation = found.allocation
    for stage, sizes in found.sizes.items():
        for size in sizes:
            at_once = size.capacity(allocation.nodes)
            assert misfit(where, size.shape) is None
            assert at_once >= 1
            assert at_once * size.shape.nodes <= allocation.usable
            if size.shape.nodes == 0:
                assert at_once <= size.per_node * allocation.usable
            if size.strategy is LaunchStrategy.STEP and where.launch.max_steps:
                assert at_once <= where.launch.max_steps
            if size.strategy is LaunchStrategy.GROUP:
                assert size.launches is not None
                assert size.launches * size.group >= at_once  # all that fit can run
                assert where.launch.max_steps is None or size.launches <= where.launch.max_steps
            if size.strategy is LaunchStrategy.SPAWN and where.launch.max_sub_node_nodes:
                assert at_once <= size.per_node * where.launch.max_sub_node_nodes
            if stage in ("search", "converge"):
                assert size.shape.ranks <= batch
    assert 1 <= wave_target(asked) <= candidates
    assert decide_resources(asked, where) == found
