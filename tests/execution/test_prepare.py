"""What is written for a launch that several tasks share, and what is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from site_cases import FRONTIER_PAID, PERLMUTTER, site

from gfm_pipeline.apps.runtime.launch import Launch, command_line
from gfm_pipeline.core.contracts.attempts.launch import GroupFile, RankFile
from gfm_pipeline.core.contracts.attempts.records import WRAP_FILE
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.records import read_record
from gfm_pipeline.execution.prepare import NewMember, TimeLimits, prepare_members, prepare_shared
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.task_shape import TaskShape

BOUNDS = TimeLimits(3600.0, 900.0, 30.0, 60.0)


def shared(tmp_path: Path, machine, size: SizeClass, tasks: int, nodes: list[str]):
    members = []
    for number in range(tasks):
        folder = tmp_path / f"c{number}"
        folder.mkdir()
        members.append(NewMember("gfm_pipeline.apps.train", folder))
    launch = tmp_path / "launch"
    launch.mkdir()
    there, wanted = site(machine), dict(enumerate(members))
    job = prepare_shared(there, "search", size, nodes, tasks, launch, BOUNDS)
    found = prepare_members(there, size, nodes, tasks, wanted, launch, BOUNDS)
    GroupFile(tuple(member for member, _ in found.values()), job.launch.cancel).write(launch)
    places = {member.first_rank: nodes for member, nodes in found.values()}
    return job, places, [member.folder for member in members], launch


def test_a_place_of_a_running_launch_goes_to_another_task_with_a_port_of_its_own(tmp_path):
    size = SizeClass(TaskShape(0, 2, 1, 16), LaunchStrategy.GROUP, per_node=2, group=4, launches=2)
    _, _, folders, launch = shared(tmp_path, PERLMUTTER, size, 4, ["p0", "p1"])
    (tmp_path / "next").mkdir()
    new = NewMember("gfm_pipeline.apps.train", tmp_path / "next")
    found = prepare_members(site(PERLMUTTER), size, ["p0", "p1"], 4, {3: new}, launch, BOUNDS, number=4)
    member, nodes = found[3]
    assert (member.first_rank, member.ranks, member.number, nodes) == (6, 2, 4, ("p1",))
    before, after = RankFile.read(folders[3]), RankFile.read(new.folder)
    assert after.rank_gpus == before.rank_gpus
    assert after.master_port not in {RankFile.read(folder).master_port for folder in folders}
    assert read_record(Launch, new.folder / WRAP_FILE).folder == str(new.folder)


def test_whole_nodes(tmp_path):
    size = SizeClass(TaskShape(2, 8, 1, 7), LaunchStrategy.GROUP, group=3, launches=2)
    job, places, folders, launch = shared(tmp_path, FRONTIER_PAID, size, 3, [f"f{k}" for k in range(6)])
    assert places == {0: ("f0", "f1"), 16: ("f2", "f3"), 32: ("f4", "f5")}
    assert {"--nodes=6", "--ntasks=48", "--nodelist=f[0-5]"} <= set(job.launch.line)
    group = GroupFile.read(launch)
    assert [(m.folder, m.first_rank, m.ranks) for m in group.members] == [
        (str(folder), first, 16) for folder, first in zip(folders, places, strict=True)
    ]
    assert group.cancel == job.launch.cancel == ("scancel", "{step}")
    told = [RankFile.read(folder) for folder in folders]
    assert [t.nodes for t in told] == list(places.values())
    assert [t.master_address for t in told] == ["f0", "f2", "f4"]


def test_parts_of_nodes(tmp_path):
    size = SizeClass(TaskShape(0, 2, 1, 16), LaunchStrategy.GROUP, per_node=2, group=4, launches=2)
    job, places, folders, _ = shared(tmp_path, PERLMUTTER, size, 3, ["p0", "p1", "p2"])
    assert places == {0: ("p0",), 2: ("p0",), 4: ("p1",)}  # p2 is not needed
    assert "--nodes=2" in job.launch.line
    told = [RankFile.read(folder) for folder in folders]
    assert [t.rank_gpus for t in told] == [(3, 2), (1, 0), (3, 2)]
    assert len({t.master_port for t in told}) == 3


def test_each_task_has_its_own_bounds_and_the_launch_outlives_them(tmp_path):
    size = SizeClass(TaskShape(0, 2, 1, 16), LaunchStrategy.GROUP, per_node=2, group=4, launches=2)
    job, _, folders, launch = shared(tmp_path, PERLMUTTER, size, 2, ["p0"])
    own = [read_record(Launch, folder / WRAP_FILE) for folder in folders]
    assert [o.folder for o in own] == [str(f) for f in folders]
    for member in own:
        assert (member.module, member.line, member.shim) == ("gfm_pipeline.apps.train", (), None)
        assert job.launch.deadline_seconds > member.deadline_seconds + member.grace_seconds
        assert job.launch.heartbeat_timeout_seconds >= job.launch.deadline_seconds  # it shows no life itself
    assert job.launch.folder == str(launch)
    assert command_line(job.launch)[-2:] == ["-m", "gfm_pipeline.apps.runtime.rank"]  # a rank finds its task by itself


def test_more_tasks_than_the_nodes_hold_are_refused(tmp_path):
    size = SizeClass(TaskShape(2, 8, 1, 7), LaunchStrategy.GROUP)
    with pytest.raises(ConfigError, match="cannot be launched"):
        shared(tmp_path, FRONTIER_PAID, size, 3, ["a", "b"])
