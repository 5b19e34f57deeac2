"""Launches that tasks share: how the driver hears of each task, and of launches that do not end."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfm_pipeline.core.contracts.attempts.records import ENDED_STEM
from gfm_pipeline.core.contracts.task import STOP_FILE
from gfm_pipeline.engine.decisions.requests import TaskRequest
from gfm_pipeline.engine.resources.node_pool import Placement
from gfm_pipeline.engine.stages.trials import TRAIN
from gfm_pipeline.engine.tasks.attempts import Running
from gfm_pipeline.engine.tasks.shared_launches import LINGER_SECONDS, POLL_SECONDS, SharedLaunch, SharedLaunches
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.task_shape import TaskShape

SIZE = SizeClass(TaskShape(0, 2, 1, 7), LaunchStrategy.GROUP, per_node=4, group=2)


@pytest.fixture
def launch(tmp_path: Path) -> SharedLaunch:
    where = Placement("here", ("a",), 2)
    members = {}
    for first, name in ((0, "x"), (2, "y")):
        request = TaskRequest("key", "search", name, TRAIN, None)
        members[first] = Running(request, 1, tmp_path / name, 0.0, SIZE, where, tmp_path)
    return SharedLaunch(tmp_path, SIZE, where, members)


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


def test_a_launch_that_outlives_its_tasks_is_asked_to_leave_and_then_is_trouble(launch):
    launches = SharedLaunches()
    launches.add(launch)
    for member in list(launch.members.values()):
        launches.left(member)
    launches.ended(10.0)
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
