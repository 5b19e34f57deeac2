"""Shapes of tasks: who gets which GPU and which cores, on whole nodes and on parts of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_cases import FRONTIER, HOSTS, PERLMUTTER, PLAIN, TILES, site

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.sites.cores import parse_cores
from gfm_pipeline.sites.task_shape import (
    TaskShape,
    default_shape,
    host_shape,
    misfit,
    node_layout,
    slots_per_node,
    threads_of,
)

MACHINES = {"frontier": FRONTIER, "perlmutter": PERLMUTTER, "tiles": TILES, "hosts": HOSTS}


def test_whole_nodes_have_a_rank_a_gpu():
    assert default_shape(site(FRONTIER), 16) == TaskShape(16, 8, 1, 7)
    assert default_shape(site(FRONTIER), 16).ranks == 128
    assert default_shape(site(PERLMUTTER), 2) == TaskShape(2, 4, 1, 32)
    assert default_shape(site(TILES), 1) == TaskShape(1, 4, 1, 2)
    assert default_shape(site(HOSTS), 3) == TaskShape(3, 1, 0, 32)
    assert default_shape(site(HOSTS), 3, ranks_per_node=4) == TaskShape(3, 4, 0, 8)


def test_small_tasks_take_a_gpu_or_their_threads():
    assert default_shape(site(FRONTIER), 0) == TaskShape(0, 1, 1, 7)
    assert default_shape(site(HOSTS), 0) == TaskShape(0, 1, 0, 4)
    assert default_shape(site(PLAIN), 0) == TaskShape(0, 1, 0, 0)
    assert host_shape(site(FRONTIER), 14) == TaskShape(0, 1, 0, 14)
    assert slots_per_node(site(FRONTIER), default_shape(site(FRONTIER), 0)) == 8
    assert slots_per_node(site(FRONTIER), host_shape(site(FRONTIER), 14)) == 4
    assert slots_per_node(site(PLAIN), host_shape(site(PLAIN))) == 0


def test_ranks_sit_beside_their_gpus():
    frontier = node_layout(site(FRONTIER), default_shape(site(FRONTIER), 1))
    assert [p.gpu for p in frontier] == [4, 5, 2, 3, 6, 7, 0, 1]
    # In this order the scheduler's own binding fills the node from core 1 upwards.
    assert [p.cores for p in frontier] == ["1-7", "9-15", "17-23", "25-31", "33-39", "41-47", "49-55", "57-63"]
    perlmutter = node_layout(site(PERLMUTTER), default_shape(site(PERLMUTTER), 1))
    assert [(p.gpu, p.cores) for p in perlmutter] == [
        (3, "0-15,64-79"),
        (2, "16-31,80-95"),
        (1, "32-47,96-111"),
        (0, "48-63,112-127"),
    ]


def test_without_a_map_cores_are_dealt_evenly_past_the_reserved_ones():
    places = node_layout(site(TILES), default_shape(site(TILES), 1))
    assert [(p.gpu, p.cores) for p in places] == [(0, "1-2"), (1, "3-4"), (2, "6-7"), (3, "8-9")]


def test_siblings_stay_with_their_core():
    machine = site(PERLMUTTER, node={"cores": 8, "threads_per_core": 2, "gpus": 2})
    places = node_layout(machine, default_shape(machine, 1))
    assert [(p.gpu, p.cores) for p in places] == [(0, "0-3,8-11"), (1, "4-7,12-15")]


def test_fewer_cores_than_are_beside_a_gpu():
    assert node_layout(site(PERLMUTTER), TaskShape(0, 1, 1, 16), 1)[0].cores == "16-31"


@pytest.mark.parametrize("name", MACHINES)
@given(ranks=st.integers(1, 8), cores=st.integers(1, 8), gpus=st.integers(0, 1))
def test_tasks_on_one_node_never_share_a_gpu_or_a_core(name, ranks, cores, gpus):
    machine = site(MACHINES[name])
    wanted = TaskShape(0, ranks, gpus, min(cores, 2) if gpus else cores)
    if misfit(machine, wanted):
        return
    places = [p for slot in range(slots_per_node(machine, wanted)) for p in node_layout(machine, wanted, slot)]
    taken = [core for place in places for core in parse_cores(place.cores)]
    assert len(taken) == len(set(taken)) == wanted.cores_per_rank * len(places)
    assert not set(taken) & set(machine.node.reserved_cores)
    numbers = [p.gpu for p in places]
    assert numbers == [None] * len(places) if not gpus else len(set(numbers)) == len(numbers)


def test_slots_of_small_tasks_are_parts_of_the_full_node():
    machine = site(FRONTIER)
    full = node_layout(machine, default_shape(machine, 1))
    pairs = TaskShape(0, 2, 1, 7)
    assert tuple(p for slot in range(4) for p in node_layout(machine, pairs, slot)) == full


def test_a_rank_has_a_thread_for_each_core():
    assert threads_of(site(FRONTIER), default_shape(site(FRONTIER), 2)) == 7
    assert threads_of(site(PERLMUTTER), default_shape(site(PERLMUTTER), 2)) == 16  # of 32 hardware threads
    assert threads_of(site(HOSTS), default_shape(site(HOSTS), 1)) == 32
    assert threads_of(site(PLAIN, threads_per_task=3), default_shape(site(PLAIN), 0)) == 3


def test_a_machine_that_tells_nothing_is_left_alone():
    assert node_layout(site(PLAIN), TaskShape(0, 2, 0, 0)) == node_layout(site(PLAIN), TaskShape(0, 2, 0, 0), 5)
    assert [p.cores for p in node_layout(site(PLAIN), TaskShape(0, 2, 0, 0))] == ["", ""]


@pytest.mark.parametrize(
    ("machine", "shape", "slot", "words"),
    [
        (FRONTIER, TaskShape(1, 9, 1, 1), 0, "8 GPUs"),
        (FRONTIER, TaskShape(1, 8, 1, 8), 0, "8 cores each"),
        (HOSTS, TaskShape(1, 1, 1, 1), 0, "no GPUs"),
        (HOSTS, TaskShape(0, 33, 0, 0), 0, "32 cores for tasks"),
        (FRONTIER, TaskShape(0, 1, 1, 7), 8, "no slot 8"),
        (FRONTIER, TaskShape(1, 8, 1, 7), 1, "no slot 1"),
    ],
)
def test_what_a_node_cannot_hold_is_refused(machine, shape, slot, words):
    with pytest.raises(ConfigError, match=words):
        node_layout(site(machine), shape, slot)
