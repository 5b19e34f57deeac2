"""One rank of a task under a launcher, and ranks of a group: real processes, started as srun would."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ranked import ended, finish, gone, prepare, ranks_file, seen, start, start_step, wait_until

from gfm_pipeline.apps.runtime.attempt_monitor import AttemptMonitor
from gfm_pipeline.apps.runtime.grouped_launch import FileAppeared
from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.apps.runtime.rank import cancel_step, step_of
from gfm_pipeline.apps.runtime.rank_assignment import RankAssignment, visible_gpu
from gfm_pipeline.apps.runtime.supervise import WrapperHeartbeat
from gfm_pipeline.apps.runtime.wrapper import exit_code
from gfm_pipeline.core.contracts.attempts.launch import GroupFile, GroupMember
from gfm_pipeline.core.contracts.attempts.records import (
    EXIT_FILE,
    FIRST_FAILURE_FILE,
    STOP_FILE,
    WRAP_FILE,
    WRAPPER_FILE,
    ExitCode,
    ExitRecord,
    read_first_failure,
    write_first_failure,
)
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.core.records import read_record

CORES = sorted(os.sched_getaffinity(0))
GPUS = {"visible_variable": "ROCR_VISIBLE_DEVICES", "rank_gpus": (4, 5, 2, 3)}
SEAT = RankAssignment(9, 1, "node7")

__all__ = ["ended"]  # used by every test


@pytest.mark.parametrize("visible", [None, "", "0,1,2,3,4,5,6,7", "5", " 5 ", "4,5"])
def test_exactly_one_gpu_the_sites_is_seen(visible):
    assert visible_gpu(ranks_file(4, **GPUS), SEAT, visible) == "5"


@pytest.mark.parametrize("visible", ["0", "1", "4", "0,1", "GPU-5c2a"])
def test_a_wrong_gpu_is_refused_with_rank_host_seen_and_expected(visible):
    with pytest.raises(ConfigError, match=rf"Rank 9 on node7 sees GPU {visible} .* gives it GPU 5\."):
        visible_gpu(ranks_file(4, **GPUS), SEAT, visible)


def test_without_gpus_nothing_is_masked():
    assert visible_gpu(ranks_file(4), SEAT, "3") is None
    assert visible_gpu(ranks_file(4, visible_variable="CUDA_VISIBLE_DEVICES"), SEAT, "3") is None
    with pytest.raises(ConfigError, match="GPUs for 4 ranks per node"):
        visible_gpu(ranks_file(9, **GPUS), RankAssignment(8, 4, "node7"), None)


def test_ranks_of_a_step_find_their_places(tmp_path):
    file = replace(ranks_file(4, **GPUS), master_address="node0", master_port=20017, exports={"A": "b"})
    prepare(tmp_path, replace(file, unset=("HOME", "CUDA_VISIBLE_DEVICES"), rank_cores=(str(CORES[0]),) * 4, bind=True))
    processes = start_step(tmp_path, 4)
    assert finish(*processes) == [0] * 4
    for rank, gpu in enumerate("4523"):
        environ = seen(tmp_path, rank)["environ"]
        assert environ["ROCR_VISIBLE_DEVICES"] == gpu
        assert (environ["RANK"], environ["LOCAL_RANK"], environ["WORLD_SIZE"]) == (str(rank), str(rank), "4")
        assert (environ["MASTER_ADDR"], environ["MASTER_PORT"], environ["A"]) == ("node0", "20017", "b")
        assert not {"HOME", "CUDA_VISIBLE_DEVICES"} & environ.keys()
        assert seen(tmp_path, rank)["cores"] == CORES[:1]
    assert not (tmp_path / FIRST_FAILURE_FILE).exists()


def test_the_launcher_s_own_names_of_variables_are_used(tmp_path):
    prepare(tmp_path, ranks_file(6, rank_variable="PALS_RANKID", local_rank_variable="PALS_LOCAL_RANKID"))
    assert finish(start("rank", tmp_path, {"PALS_RANKID": "5", "PALS_LOCAL_RANKID": "1"})) == [0]
    assert seen(tmp_path, 5)["environ"]["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "ROCR_VISIBLE_DEVICES": "0"}, r"Rank 1 on \S+ sees GPU 0"),
        ({"SLURM_PROCID": "7", "SLURM_LOCALID": "1"}, "There is a rank 7 .* has 4 ranks"),
        ({"SLURM_PROCID": "", "SLURM_LOCALID": "1"}, "finds '' in SLURM_PROCID"),
    ],
)
def test_a_wrong_start_is_refused_for_good(tmp_path, environ, sentence):
    prepare(tmp_path, ranks_file(4, **GPUS))
    assert finish(start("rank", tmp_path, environ)) == [ExitCode.PERMANENT]
    assert re.search(sentence, (tmp_path / "shown").read_text())
    assert re.search(sentence, json.loads((tmp_path / "error.json").read_text())["message"])
    assert read_first_failure(tmp_path) == ExitCode.PERMANENT
    assert not list(tmp_path.glob("seen-*"))


@pytest.mark.parametrize(
    ("rank", "wanted", "code", "verdict"),
    [
        (0, {"code": 30}, 30, 30),
        (1, {"code": 30}, 30, 30),
        (0, {"code": 21}, 21, 21),
        (1, {"code": 21}, 0, None),  # rank 0 says it for all
        (1, {"code": 11}, 0, None),
        (1, {"kill": int(signal.SIGSEGV)}, 139, 139),
    ],
)
def test_exit_codes(tmp_path, rank, wanted, code, verdict):
    prepare(tmp_path, ranks_file(2), {rank: wanted})
    assert finish(*start_step(tmp_path, 2))[rank] == code
    assert read_first_failure(tmp_path) == verdict


def test_the_first_verdict_stays_and_counts_instead_of_the_launchers_code(tmp_path):
    assert exit_code(1, tmp_path) == 1
    assert exit_code(137, tmp_path) == -9
    assert exit_code(-15, tmp_path) == -15
    write_first_failure(tmp_path, 139, 3, "node7")
    write_first_failure(tmp_path, 20, 0, "node0")
    assert read_first_failure(tmp_path) == 139
    assert exit_code(1, tmp_path) == -11
    assert exit_code(0, tmp_path) == 0
    (tmp_path / FIRST_FAILURE_FILE).write_text("")
    assert exit_code(1, tmp_path) == 1


def test_the_wrapper_ends_a_launch_that_outlives_the_verdict(tmp_path):
    watch = AttemptMonitor(Launch("m", str(tmp_path), 1e9, {}, grace_seconds=30.0), now=0.0)
    assert watch.poll(1.0) is None
    write_first_failure(tmp_path, 30, 3, "node7")
    assert watch.poll(2.0) is None
    assert watch.poll(11.9) is None
    assert watch.poll(12.1) is signal.SIGTERM
    assert watch.poll(42.0) is None
    assert watch.poll(42.2) is signal.SIGKILL
    assert (watch.stopped, watch.timed_out, watch.silent) == (False, False, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_passed_on(tmp_path, number):
    prepare(tmp_path, ranks_file(2), {1: {"sleep": 60, "on_signal": 22}})
    process = start("rank", tmp_path, {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"})
    wait_until((tmp_path / "seen-1").exists)
    process.send_signal(number)
    assert finish(process) == [22]
    assert json.loads((tmp_path / "heard-1").read_text()) == [number]


def test_a_killed_rank_leaves_no_program(tmp_path):
    prepare(tmp_path, ranks_file(1), {0: {"sleep": 60}})
    process = start("rank", tmp_path, {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    wait_until((tmp_path / "seen-0").exists)
    process.kill()
    finish(process)
    assert gone([seen(tmp_path, 0)["pid"]])


def test_rank_0_notices_that_the_wrapper_is_gone_and_ends_the_step(tmp_path):
    cancel = (sys.executable, "-c", "import sys; open('cancelled', 'w').write(sys.argv[1])", "{step}")
    folder = prepare(tmp_path, ranks_file(1, wrapper_timeout_seconds=3.0, cancel=cancel), {0: {"sleep": 60}})
    slurm = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "4"}
    process = start("rank", folder, slurm)
    began = time.monotonic()
    while time.monotonic() - began < 5.0:  # longer than the patience: it is the changes that count
        (folder / WRAPPER_FILE).touch()
        assert process.poll() is None
        time.sleep(0.1)
    stopped = time.monotonic()
    assert finish(process) == [ExitCode.RETRYABLE]
    assert 2.5 < time.monotonic() - stopped < 30
    assert json.loads((folder / "heard-0").read_text()) == [signal.SIGTERM]  # it may save
    assert (folder / "step").read_text() == "17.4\n"
    assert (folder / "cancelled").read_text() == "17.4"
    assert gone([seen(folder, 0)["pid"]], 0.1)


def test_a_pulse_is_lost_when_the_file_never_comes_or_stays_as_it_is(tmp_path):
    path = tmp_path / "pulse"
    never, patient = WrapperHeartbeat(path, 10.0, now=0.0), WrapperHeartbeat(path, 10.0, now=0.0, must_appear=False)
    assert not never.lost(9.0)
    assert never.lost(10.1)
    assert not patient.lost(100.0)
    path.touch()
    os.utime(path, (1e9, 1e9))
    assert not patient.lost(101.0)
    os.utime(path, (0, 0))  # a clock that jumps back is a change like any other
    assert not patient.lost(110.0)
    assert not patient.lost(119.9)
    assert patient.lost(120.1)


def test_a_step_is_cancelled_only_where_it_has_a_number(tmp_path):
    mark = tmp_path / "mark"
    command = (sys.executable, "-c", f"open({str(mark)!r}, 'w').write('x')", "{step}")
    cancel_step(command, None)
    cancel_step((), "1.0")
    assert not mark.exists()
    cancel_step(("/nonexistent/scancel", "{step}"), "1.0")  # nothing more can be done
    cancel_step(command, "1.0")
    assert mark.exists()
    assert step_of({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}) == "1.0"
    assert step_of({"SLURM_JOB_ID": "1"}) is None


# --- groups


def make_group(folder: Path, *members: tuple[int, int, dict]) -> list[Path]:
    """A group of tasks: first rank, ranks, and what their ranks do."""
    found, listed = [], []
    for k, (first, ranks, wanted) in enumerate(members):
        there = {"PYTHONPATH": str(folder / f"m{k}")}  # where ``told`` lies
        place = prepare(folder / f"m{k}", ranks_file(ranks, **GPUS, exports={"MEMBER": str(k), **there}), wanted)
        write_record(place / WRAP_FILE, Launch("told", str(place), 60.0, there, grace_seconds=5.0))
        listed.append(GroupMember(str(place), "told", first, ranks, k))
        found.append(place)
    GroupFile(tuple(listed)).write(folder)
    return found


def test_ranks_of_a_group_work_for_their_own_task_under_its_own_wrapper(tmp_path):
    places = make_group(tmp_path, (0, 2, {}), (2, 1, {0: {"code": 30}}), (4, 2, {1: {"kill": int(signal.SIGKILL)}}))
    processes = start_step(tmp_path, 7, words=())
    assert finish(*processes) == [0] * 7  # one task's end is not that of the others
    assert [read_record(ExitRecord, place / EXIT_FILE).code for place in places[:2]] == [0, 30]
    assert read_first_failure(places[2]) == 128 + signal.SIGKILL
    for place, ranks in zip(places, (2, 1, 2), strict=True):
        assert sorted(p.name for p in place.glob("seen-*")) == [f"seen-{k}" for k in range(ranks)]
        for rank in range(ranks):
            environ = seen(place, rank)["environ"]
            assert environ["ROCR_VISIBLE_DEVICES"] == "45"[rank]
            assert environ["MEMBER"] == place.name[1:]
            assert (environ["RANK"], environ["WORLD_SIZE"]) == (str(rank), str(ranks))
        assert (place / "stdout.log").exists()


def test_when_a_member_has_ended_its_other_ranks_do_too(tmp_path):
    (place,) = make_group(tmp_path, (0, 2, {0: {"sleep": 1}, 1: {"sleep": 300}}))
    assert finish(*start_step(tmp_path, 2, words=())) == [0, 0]
    assert read_record(ExitRecord, place / EXIT_FILE).code == 0
    assert gone([seen(place, 1)["pid"]], 0.1)


def test_ranks_whose_task_has_ended_take_the_next_one_of_an_open_launch(tmp_path):
    """Then they end, because the launch is closed; the other task goes on meanwhile."""
    first, other, following = make_group(tmp_path, (0, 2, {}), (2, 1, {0: {"sleep": 60}}), (0, 2, {1: {"code": 30}}))
    listed = GroupFile.read(tmp_path).members
    GroupFile(listed[:2], open=True).write(tmp_path)
    processes = start_step(tmp_path, 3, words=())
    wait_until((tmp_path / "ended-0").exists)
    assert all(process.poll() is None for process in processes)
    GroupFile((listed[2], listed[1]), open=True).write(tmp_path)
    wait_until((tmp_path / "ended-2").exists)
    assert not (tmp_path / "ended-1").exists()
    assert read_record(ExitRecord, first / EXIT_FILE).code == 0
    assert read_first_failure(following) == 30
    assert [seen(following, rank)["environ"]["MEMBER"] for rank in (0, 1)] == ["2", "2"]
    GroupFile((listed[2], listed[1])).write(tmp_path)
    assert finish(*processes[:2]) == [0, 0]
    processes[2].send_signal(signal.SIGTERM)
    assert finish(processes[2]) == [0]
    assert read_record(ExitRecord, other / EXIT_FILE).stopped


def test_ranks_that_wait_for_a_task_end_on_a_signal(tmp_path):
    make_group(tmp_path, (0, 1, {}))
    GroupFile(GroupFile.read(tmp_path).members, open=True).write(tmp_path)
    processes = start_step(tmp_path, 1, words=())
    wait_until((tmp_path / "ended-0").exists)
    processes[0].send_signal(signal.SIGUSR1)
    assert finish(*processes) == [0]


def test_a_signal_to_a_group_asks_its_members_to_stop(tmp_path):
    (place,) = make_group(tmp_path, (0, 2, {0: {"sleep": 60}, 1: {"sleep": 60}}))
    processes = start_step(tmp_path, 2, words=())
    wait_until(lambda: all((place / f"seen-{rank}").exists() for rank in (0, 1)) and (place / WRAPPER_FILE).exists())
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert finish(*processes) == [0, 0]
    record = read_record(ExitRecord, place / EXIT_FILE)
    assert (record.code, record.stopped) == (ExitCode.PREEMPTED, True)
    assert (place / STOP_FILE).exists()


def test_a_member_that_is_refused_leaves_an_exit_record(tmp_path):
    (place,) = make_group(tmp_path, (0, 1, {}))
    process = start("rank", tmp_path, {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "ROCR_VISIBLE_DEVICES": "7"}, ())
    assert finish(process) == [0]
    assert read_record(ExitRecord, place / EXIT_FILE).code == ExitCode.PERMANENT
    assert "sees GPU 7" in json.loads((place / "error.json").read_text())["message"]


def test_looks_at_the_file_system_are_rare(tmp_path):
    look = FileAppeared(tmp_path / "exit.json", 5.0)
    assert not look(100.0)
    (tmp_path / "exit.json").touch()
    assert not look(104.9)
    assert look(105.1)
