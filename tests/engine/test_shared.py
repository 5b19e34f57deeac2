"""Launches that tasks share: how the driver hears of each task, and of launches that do not end."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfm_pipeline.core.contracts.attempts.launch import GroupFile, GroupMember
from gfm_pipeline.core.contracts.attempts.records import ENDED_STEM
from gfm_pipeline.core.contracts.task import STOP_FILE
from gfm_pipeline.engine.decisions.requests import TaskRequest
from gfm_pipeline.engine.resources.node_pool import Placement
from gfm_pipeline.engine.stages.trials import TRAIN
from gfm_pipeline.engine.tasks.attempts import Running
from gfm_pipeline.engine.tasks.shared_launches import (
    LINGER_SECONDS,
    POLL_SECONDS,
    SharedLaunch,
    SharedLaunches,
    SharedTask,
)
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.task_shape import TaskShape

SIZE = SizeClass(TaskShape(0, 2, 1, 7), LaunchStrategy.GROUP, per_node=4, group=2)


@pytest.fixture
def launch(tmp_path: Path) -> SharedLaunch:
    where = Placement("here", ("a",), 2)
    tasks = {place: shared_task(tmp_path, name, place) for place, name in enumerate("xy")}
    return SharedLaunch(tmp_path, SIZE, where, tasks, ("scancel", "{step}"))


def shared_task(folder: Path, name: str, place: int, number: int | None = None) -> SharedTask:
    running = Running(
        TaskRequest("key", "search", name, TRAIN, None), 1, folder / name, 0.0, SIZE, Placement("here", ("a",)), folder
    )
    return SharedTask(GroupMember(str(folder / name), "m", 2 * place, 2, place if number is None else number), running)


def test_a_task_that_has_ended_is_told_once_while_the_others_go_on(launch):
    launches = SharedLaunches()
    launches.add(launch)
    x, y = launch.members.values()
    assert launches.ended(0.0) == []
    (launch.folder / f"{ENDED_STEM}0").touch()
    assert launches.ended(POLL_SECONDS / 2) == []  # looks now and then only
    assert launches.ended(POLL_SECONDS) == [x.key]
    launches.left(x)
    assert launches.ended(2 * POLL_SECONDS) == []
    assert list(launch.members.values()) == [y]


def test_an_ended_task_leaves_its_place_to_the_next_one(launch):
    launches = SharedLaunches()
    launches.add(launch)
    _, y = launch.members.values()
    assert launch.free() == []
    (launch.folder / f"{ENDED_STEM}1").touch()
    assert launches.ended(POLL_SECONDS) == [y.key]
    launches.left(y)
    assert launch.free() == [1]
    z = shared_task(launch.folder, "z", 1, 2)
    launch.fill({1: z})
    assert launch.free() == []
    group = GroupFile.read(launch.folder)
    assert [(Path(m.folder).name, m.first_rank, m.number) for m in group.members] == [("x", 0, 0), ("z", 2, 2)]
    assert (group.open, group.cancel) == (True, ("scancel", "{step}"))
    assert launches.ended(2 * POLL_SECONDS) == []  # the mark of y is not one of z
    (launch.folder / f"{ENDED_STEM}2").touch()
    assert launches.ended(3 * POLL_SECONDS) == [z.running.key]
    launches.left(z.running)
    launches.close()
    assert launch.free() == []
    assert not GroupFile.read(launch.folder).open


def test_launches_with_most_free_places_end_for_a_task_of_another_size(tmp_path):
    """Only as many as the task needs."""
    launches, made = SharedLaunches(), []
    for k in range(3):
        folder = tmp_path / str(k)
        folder.mkdir()
        tasks = {place: shared_task(folder, f"{k}{place}", place) for place in range(3)}
        made.append(SharedLaunch(folder, SIZE, Placement("here", ("a", "b"), 3), tasks))
        launches.add(made[-1])
        for place in range(k):
            launches.left(tasks[place].running)
    wide = SizeClass(TaskShape(3, 2, 1, 7), LaunchStrategy.STEP)
    launches.make_room(SIZE, 0)  # its own launches do not end
    assert [launch.open for launch in made] == [True, True, True]
    launches.make_room(wide, 1)
    assert [launch.open for launch in made] == [True, True, False]
    launches.make_room(wide, 1)
    assert [launch.open for launch in made] == [True, True, False]
    launches.make_room(SizeClass(TaskShape(0, 1, 0, 1), LaunchStrategy.SPAWN), 0)
    assert [launch.open for launch in made] == [True, False, False]  # a full launch has no place to lose


def test_a_launch_that_outlives_its_tasks_is_asked_to_leave_and_then_is_trouble(launch):
    launches = SharedLaunches()
    launches.add(launch)
    for member in list(launch.members.values()):
        launches.left(member)
    launches.ended(10.0)
    assert launch.open
    launches.ended(10.0 + POLL_SECONDS)
    assert not launch.open  # no task came for its places
    launches.ended(10.0 + LINGER_SECONDS)
    assert not (launch.folder / STOP_FILE).exists()
    launches.ended(11.0 + LINGER_SECONDS + POLL_SECONDS)
    assert (launch.folder / STOP_FILE).exists()
    assert not launches.stuck(20.0 + LINGER_SECONDS, 100.0)
    assert launches.stuck(120.0 + LINGER_SECONDS, 100.0)


def test_it_is_known_by_its_folder_until_it_is_over(launch):
    launches = SharedLaunches()
    launches.add(launch)
    assert launches.over(("key", "x", 1)) is None
    assert launches.over(launch.folder) is launch
    assert launches.over(launch.folder) is None
    launches.add(launch)
    launches.drop("elsewhere")
    assert list(launches) == [launch]
    launches.drop("here")
    assert list(launches) == []
    launches.add(launch)
    assert launches.clear() == [(SIZE, launch.placement)]
