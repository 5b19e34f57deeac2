"""Where launches go: no node is given twice, bad nodes are not given, and limits hold."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gfm_pipeline.engine.resources.node_pool import NodePool, Placement
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.task_shape import TaskShape

NAMES = [f"n{k:02d}" for k in range(12)]


def step(nodes: int, **settings: int) -> SizeClass:
    return SizeClass(TaskShape(nodes, 8, 1, 7), LaunchStrategy.STEP, **settings)


SLOTS = SizeClass(TaskShape(0, 1, 1, 7), LaunchStrategy.SPAWN, 8)
PARTS = SizeClass(TaskShape(0, 2, 1, 7), LaunchStrategy.GROUP, per_node=4, group=6, launches=2)
PAIRS = SizeClass(TaskShape(2, 8, 1, 7), LaunchStrategy.GROUP, group=3, launches=2)


def pool(count: int, launches: int | None = None) -> NodePool:
    made = NodePool(launches)
    made.add("here", NAMES[:count])
    return made


def test_neighbours_in_the_order_of_the_batch_system():
    made = pool(4)
    assert made.place(step(3), 0, 60) == Placement("here", ("n00", "n01", "n02"))
    assert made.place(step(2), 0, 60) is None
    assert made.place(step(1), 0, 60) == Placement("here", ("n03",))


def test_slots_and_whole_nodes_take_turns():
    made = pool(2)
    slot = made.place(SLOTS, 0, 60)
    assert slot == Placement("here")
    assert made.place(step(1), 0, 60) is None
    made.release(SLOTS, slot)
    whole = made.place(step(1), 0, 60)
    assert whole is not None
    assert made.place(SLOTS, 0, 60) is None
    made.release(step(1), whole)
    assert [made.place(SLOTS, 0, 60) for _ in range(17)].count(None) == 1


def test_an_excluded_node_is_not_given_even_to_those_that_have_no_other():
    made = pool(2)
    made.exclude("n00", "broken")
    assert made.place(step(2), 0, 60) is None
    assert made.capacity(SLOTS) == 8
    assert made.place(step(1), 0, 60) == Placement("here", ("n01",))
    made.add("later", ["n00", "n05"])
    assert made.usable("later") == ["n05"]


def test_a_task_waits_for_a_node_it_did_not_fail_on_where_there_is_one():
    made = pool(2)
    other = made.place(step(1), 0, 60, {"n00"})
    assert other is not None
    assert other.nodes == ("n01",)
    assert made.place(step(1), 0, 60, {"n00"}) is None  # n00 is free, n01 is better
    assert made.place(step(1), 0, 60, {"n00", "n01"}) == Placement("here", ("n00",))


def test_a_block_whose_wall_time_is_nearly_over_gets_nothing():
    made = NodePool()
    made.add("old", ["a"], ends_at=100.0)
    made.add("new", ["b"], ends_at=1000.0)
    assert made.place(step(1), 50.0, 60) == Placement("new", ("b",))


def test_launches_are_limited_over_all_sizes():
    made = pool(12, launches=3)
    taken = [made.place(step(2), 0, 60), made.place(step(1), 0, 60), made.place(PARTS, 0, 60, tasks=4)]
    assert None not in taken
    assert made.place(step(1), 0, 60) is None
    made.release(step(1), taken[1])
    assert made.place(step(4), 0, 60) is not None


def test_tasks_share_launches_of_full_nodes():
    made = pool(3)
    first = made.place(PARTS, 0, 60, tasks=6)
    assert first == Placement("here", ("n00", "n01"), 6)
    assert made.place(PARTS, 0, 60, tasks=6) == Placement("here", ("n02",), 4)  # room for no more
    assert made.place(PARTS, 0, 60, tasks=1) is None
    made.release(PARTS, first)
    assert made.place(PARTS, 0, 60, tasks=1) == Placement("here", ("n00",), 1)


def test_tasks_of_several_nodes_share_launches():
    made = pool(9)
    assert made.place(PAIRS, 0, 60, tasks=3) == Placement("here", tuple(NAMES[:6]), 3)
    assert made.place(PAIRS, 0, 60, tasks=3) == Placement("here", ("n06", "n07"), 1)
    assert made.place(PAIRS, 0, 60, tasks=1) is None  # one node is no pair


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 12),
    launches=st.one_of(st.none(), st.integers(1, 4)),
    asked=st.lists(
        st.tuples(st.sampled_from([step(1), step(2, at_a_time=2), step(5), SLOTS, PARTS, PAIRS]), st.integers(1, 6)),
        max_size=30,
    ),
    order=st.randoms(use_true_random=False),
)
def test_whatever_comes_and_goes_no_node_is_given_twice(count, launches, asked, order):
    made = pool(count, launches)
    held: list[tuple[SizeClass, Placement]] = []
    for size, tasks in asked:
        placement = made.place(size, 0, 60, tasks=tasks)
        if placement is not None:
            assert placement.tasks <= tasks
            held.append((size, placement))
        if order.random() < 0.4 and held:
            made.release(*held.pop(order.randrange(len(held))))
        named = [node for _, p in held for node in p.nodes]
        assert len(named) == len(set(named)) <= count
        whole = [(s, p) for s, p in held if s.whole]
        assert not (whole and len(whole) < len(held)), "slots and whole nodes at a time"
        assert launches is None or len(whole) <= launches
        for s, p in whole:
            assert len(p.nodes) == s.nodes_of(p.tasks)
            assert sum(x.tasks for y, x in held if y == s) <= s.capacity(count)
    for size, placement in held:
        made.release(size, placement)
    assert made.idle("here")
