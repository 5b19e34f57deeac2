"""Launch lines, and what ranks are told."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_cases import FRONTIER, HOSTS, PERLMUTTER, PLAIN, TILES, site

from gfm_pipeline.batch_systems.slurm_syntax import fold
from gfm_pipeline.core.contracts.attempts.launch import GroupFile, GroupMember, RankFile
from gfm_pipeline.core.errors import ConfigError, IntegrityError
from gfm_pipeline.sites.launch import (
    LaunchStrategy,
    group_ranges,
    group_rank_files,
    group_shape,
    launch_line,
    pool_line,
    rank_file,
    task_environment,
)
from gfm_pipeline.sites.task_shape import TaskShape, default_shape

NAMES = tuple(f"frontier{i:05d}" for i in range(1, 9473))


def test_line_of_a_task_on_frontier():
    machine = site(FRONTIER)
    assert launch_line(machine, default_shape(machine, 2), NAMES[:2]) == [
        "srun",
        "--nodes=2",
        "--ntasks=16",
        "--ntasks-per-node=8",
        "--cpus-per-task=7",
        "--gpus-per-task=1",
        "--gpu-bind=closest",
        "--threads-per-core=1",
        "--cpu-bind=threads",
        "--kill-on-bad-exit=1",
        "--nodelist=frontier[00001-00002]",
    ]


def test_line_of_a_task_on_perlmutter():
    machine = site(PERLMUTTER)
    line = launch_line(machine, default_shape(machine, 1), ["nid001"])
    assert line[3:8] == ["--gpus-per-node=4", "--gpu-bind=none", "--cpu-bind=cores", "-c", "32"]


def test_line_with_lists_of_cores():
    machine = site(TILES)
    line = launch_line(machine, default_shape(machine, 2), ["x1", "x2"])
    assert line == ["mpiexec", "-n", "8", "--cpu-bind=list:1-2:3-4:6-7:8-9", "--hosts", "x1,x2"]


def test_a_full_machine_fits_one_argument():
    machine = site(FRONTIER)
    line = launch_line(machine, default_shape(machine, 9472), NAMES)
    assert line[-1] == "--nodelist=frontier[00001-09472]"
    every_other = NAMES[::2]
    assert len(launch_line(machine, default_shape(machine, len(every_other)), every_other)[-1]) < 128 * 1024


def test_names_that_fit_no_argument_are_refused():
    machine = site(TILES, nodes=20_000)
    long = [f"x{number:07d}c0s0b0n0" for number in range(9_000)]
    with pytest.raises(ConfigError, match="9,000 nodes do not fit one argument"):
        launch_line(machine, default_shape(machine, 9_000), long)


def test_line_of_the_pools():
    assert pool_line(site(FRONTIER), NAMES[:3])[1:] == [
        "--nodes=3",
        "--ntasks=3",
        "-c",
        "56",
        "--nodelist=frontier[00001-00003]",
    ]


def test_line_of_the_pools_of_a_job_that_has_not_begun():
    assert pool_line(site(FRONTIER), 3) == ["srun", "--nodes=3", "--ntasks=3", "-c", "56"]
    apart = TILES["launch"] | {"pool_template": ["mpiexec", "-n", "{nodes}", "--hosts", "{nodelist}", "--ppn", "1"]}
    machine = site(TILES, launch=apart)
    assert pool_line(machine, 3) == ["mpiexec", "-n", "3", "--ppn", "1"]
    assert pool_line(machine, ["a", "b"]) == ["mpiexec", "-n", "2", "--hosts", "a,b", "--ppn", "1"]


def test_impossible_lines_are_refused():
    machine = site(FRONTIER)
    with pytest.raises(ConfigError, match="2 nodes cannot be launched on 3"):
        launch_line(machine, default_shape(machine, 2), NAMES[:3])
    with pytest.raises(ConfigError, match="no launch line"):
        launch_line(site(PLAIN), TaskShape(1, 1, 0, 0), ["a"])
    with pytest.raises(ConfigError, match="worker pools"):
        pool_line(site(PERLMUTTER), ["a"])


def unfold(text: str) -> list[str]:
    """Return the names in a host list, as Slurm reads one."""
    found = []
    for item in re.findall(r"[^,\[]+(?:\[[^\]]*\][^,\[]*)?", text):
        match = re.match(r"^(.*)\[(.*)\](.*)$", item)
        if not match:
            found.append(item)
            continue
        for part in match[2].split(","):
            low, _, high = part.partition("-")
            numbers = range(int(low), int(high or low) + 1)
            found += [f"{match[1]}{number:0{len(low)}d}{match[3]}" for number in numbers]
    return found


@given(st.lists(st.from_regex(r"\A[a-c]{1,2}[0-9]{0,3}(-i)?\Z").filter(bool)))
def test_folded_names_unfold_to_the_same(names):
    assert unfold(fold(names)) == names


def test_folding_is_short():
    assert fold(["fr0008", "fr0009", "fr0010", "fr0012", "login", "n9", "n10", "n11"]) == (
        "fr[0008-0010,0012],login,n[9-11]"
    )
    assert fold([]) == ""


def test_what_ranks_of_a_step_are_told(tmp_path):
    machine = site(FRONTIER)
    told = rank_file(machine, default_shape(machine, 2), NAMES[:2], 20003, wrapper_timeout_seconds=60.0)
    assert (told.ranks, told.ranks_per_node, told.nodes) == (16, 8, NAMES[:2])
    assert (told.master_address, told.master_port) == ("frontier00001", 20003)
    assert told.rank_gpus == (4, 5, 2, 3, 6, 7, 0, 1)
    assert not told.bind  # srun does, with --cpu-bind=threads
    assert told.device == "scheduler"
    assert told.exports["NCCL_NET"] == "OFI"
    assert told.exports["OMP_NUM_THREADS"] == "7"
    assert told.unset == ("CUDA_VISIBLE_DEVICES",)
    assert told.cancel == ("scancel", "{step}")
    told.write(tmp_path)
    assert RankFile.read(tmp_path) == told


def test_what_spawned_ranks_are_told():
    machine = site(FRONTIER)
    told = rank_file(machine, TaskShape(0, 2, 1, 7), (), 20000, wrapper_timeout_seconds=60.0, slot=1)
    assert told.rank_gpus == (2, 3)
    assert told.rank_cores == ("17-23", "25-31")
    assert told.bind
    assert told.device == "rank"  # no scheduler masks anything here
    assert told.nodes == ()
    assert told.master_address == "127.0.0.1"
    assert told.exports["NCCL_NET"] == "Socket"
    assert {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_CPU_BIND", "CUDA_VISIBLE_DEVICES"} <= set(told.unset)
    assert told.cancel == ()


def test_the_profile_in_use_wins_over_the_environment():
    machine = site(FRONTIER, profiles={"default": {"exports": {"NCCL_NET": "mine", "MORE": "1"}}})
    assert task_environment(machine, 2) == {"OMP_NUM_THREADS": "7", "NCCL_NET": "mine", "MORE": "1"}


def test_ranks_bind_themselves_where_the_launcher_does_not():
    told = rank_file(site(HOSTS), default_shape(site(HOSTS), 1), ["a"], 20000, wrapper_timeout_seconds=1.0)
    assert told.bind
    assert told.visible_variable is None
    assert told.rank_gpus == ()
    plain = rank_file(site(PLAIN), TaskShape(0, 1, 0, 0), (), 20000, wrapper_timeout_seconds=1.0)
    assert not plain.bind
    assert plain.rank_cores == ()


def test_addresses_among_ranks_may_be_others_than_names():
    machine = site(TILES, launch=TILES["launch"] | {"address_suffix": ".hsn.example.org"})
    told = rank_file(machine, default_shape(machine, 2), ["x1", "x2"], 20000, wrapper_timeout_seconds=1.0)
    assert told.master_address == "x1.hsn.example.org"
    assert told.nodes == ("x1", "x2")
    assert told.cancel == ()  # PBS knows no steps


def test_a_damaged_file_is_noticed(tmp_path):
    (tmp_path / "launch.json").write_text('{"ranks": "many"}')
    with pytest.raises(IntegrityError, match="RankFile"):
        RankFile.read(tmp_path)


def test_ranges_of_a_group():
    machine = site(FRONTIER)
    assert group_ranges(machine, default_shape(machine, 2), 3) == (range(16), range(16, 32), range(32, 48))
    singles = group_ranges(machine, TaskShape(0, 1, 1, 7), 20)
    assert [r.start for r in singles] == list(range(20))
    assert group_shape(machine, TaskShape(0, 1, 1, 7), 20).nodes == 3
    # Three of a node's eight GPUs per task: two tasks per node, two GPUs idle, none across nodes.
    assert group_ranges(machine, TaskShape(0, 3, 1, 7), 3) == (range(3), range(3, 6), range(8, 11))
    assert group_shape(machine, TaskShape(0, 3, 1, 7), 3).nodes == 2
    assert group_shape(machine, TaskShape(0, 3, 1, 7), 3) == default_shape(machine, 2)
    assert group_shape(site(HOSTS), default_shape(site(HOSTS), 0), 9) == TaskShape(2, 8, 0, 4)
    with pytest.raises(ConfigError, match="8 ranks each"):
        group_ranges(machine, TaskShape(1, 4, 1, 7), 2)
    with pytest.raises(ConfigError, match="does not fit"):
        group_ranges(machine, TaskShape(0, 9, 1, 1), 2)


@given(ranks=st.integers(1, 8), tasks=st.integers(1, 40))
def test_members_of_a_group_share_no_gpu(ranks, tasks):
    machine, wanted = site(FRONTIER), TaskShape(0, ranks, 1, 7)
    names = NAMES[: group_shape(machine, wanted, tasks).nodes]
    files = group_rank_files(machine, wanted, tasks, names, range(20000, 20000 + tasks), wrapper_timeout_seconds=1.0)
    places = [(told.nodes[0], gpu) for told in files for gpu in told.rank_gpus]
    assert len(places) == len(set(places)) == ranks * tasks
    full = (4, 5, 2, 3, 6, 7, 0, 1)
    for told, mine in zip(files, group_ranges(machine, wanted, tasks), strict=True):
        assert told.nodes == (names[mine.start // 8],)
        # What the scheduler gives the launch's ranks is what their task is told.
        assert told.rank_gpus == tuple(full[rank % 8] for rank in mine)
        assert told.device == "scheduler"
        assert told.cancel == ()  # ending one member must not end the others


def test_a_group_needs_its_nodes():
    machine = site(FRONTIER)
    with pytest.raises(ConfigError, match="do not fit on 1 nodes"):
        group_rank_files(machine, default_shape(machine, 1), 2, NAMES[:1], (1, 2), wrapper_timeout_seconds=1.0)


def test_members_are_found_by_rank(tmp_path):
    group = GroupFile((GroupMember("a", "m", 0, 8), GroupMember("b", "m", 8, 8)))
    group.write(tmp_path)
    again = GroupFile.read(tmp_path)
    assert again == group
    assert [m.folder if (m := again.member_of(r)) else None for r in (0, 7, 8, 15, 16)] == ["a", "a", "b", "b", None]


def test_strategies_are_words():
    assert [str(s) for s in LaunchStrategy] == ["spawn", "step", "group"]
