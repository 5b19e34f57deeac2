"""All ranks of a task on one node: real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest
from ranked import ended, finish, gone, prepare, ranks_file, seen, start, wait_until

from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.apps.runtime.spawn import GRACE_SECONDS, TOGETHER_SECONDS, Ending
from gfm_pipeline.apps.runtime.wrapper import run
from gfm_pipeline.core.contracts.attempts.records import ExitCode

CORES = sorted(os.sched_getaffinity(0))


def test_each_rank_has_its_place_gpu_cores_and_environment(tmp_path):
    file = ranks_file(
        2,
        visible_variable="ROCR_VISIBLE_DEVICES",
        rank_gpus=(4, 5),
        rank_cores=(str(CORES[0]), str(CORES[-1])),
        bind=True,
        unset=("CUDA_VISIBLE_DEVICES", "SLURM_PROCID"),
        exports={"NCCL_NET": "Socket", "OMP_NUM_THREADS": "7"},
    )
    prepare(tmp_path, file)
    leaked = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_PROCID": "17", "KEPT": "yes", "OMP_NUM_THREADS": "1"}
    assert finish(start("spawn", tmp_path, leaked)) == [0]
    for rank, gpu, core in ((0, "4", CORES[0]), (1, "5", CORES[-1])):
        found = seen(tmp_path, rank)
        environ = found["environ"]
        assert environ["ROCR_VISIBLE_DEVICES"] == gpu
        assert [environ[k] for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == [str(rank), "2", str(rank)]
        assert environ["MASTER_ADDR"] == "127.0.0.1"
        assert (environ["NCCL_NET"], environ["OMP_NUM_THREADS"], environ["KEPT"]) == ("Socket", "7", "yes")
        assert not {"CUDA_VISIBLE_DEVICES", "SLURM_PROCID"} & environ.keys()
        assert found["cores"] == [core]
    ports = {seen(tmp_path, rank)["environ"]["MASTER_PORT"] for rank in (0, 1)}
    assert len(ports) == 1
    assert int(ports.pop()) > 1023


def test_the_port_of_the_file_is_used_and_binding_left_alone_when_the_launcher_binds(tmp_path):
    prepare(tmp_path, ranks_file(1, master_port=23456, rank_cores=("99999",), bind=False))
    assert finish(start("spawn", tmp_path)) == [0]
    assert seen(tmp_path, 0)["environ"]["MASTER_PORT"] == "23456"
    assert seen(tmp_path, 0)["cores"] == CORES


__all__ = ["ended"]  # used by every test


@pytest.mark.parametrize(
    ("changes", "environ", "sentence"),
    [
        (
            {"visible_variable": "ROCR_VISIBLE_DEVICES", "rank_gpus": (4, 5)},
            {"ROCR_VISIBLE_DEVICES": "4"},
            r"Rank 1 on \S+ sees GPU 4 \(ROCR_VISIBLE_DEVICES\), the site gives it GPU 5\.",
        ),
        ({"rank_cores": (str(CORES[0]), "99999"), "bind": True}, {}, r"Rank 1 on \S+ may use cores .*gives it 99999\."),
        ({"ranks_per_node": 1}, {}, r"has 2 ranks, and 1 fit on one node"),
    ],
)
def test_what_a_rank_cannot_have_is_refused_with_a_sentence(tmp_path, changes, environ, sentence):
    prepare(tmp_path, ranks_file(2, **changes), {0: {"sleep": 60}})
    assert finish(start("spawn", tmp_path, environ)) == [ExitCode.PERMANENT]
    record = json.loads((tmp_path / "error.json").read_text())
    assert record["error"] == "ConfigError"
    assert re.search(sentence, record["message"])
    assert re.search(sentence, (tmp_path / "shown").read_text())
    if (tmp_path / "seen-0").exists():  # rank 0 was started before rank 1 was refused
        assert gone([seen(tmp_path, 0)["pid"]])


def test_the_first_failure_is_the_tasks_and_ends_the_others(tmp_path):
    prepare(tmp_path, ranks_file(3), {0: {"sleep": 60}, 1: {"sleep": 0.5, "code": 22}, 2: {"sleep": 60}})
    began = time.monotonic()
    assert finish(start("spawn", tmp_path)) == [ExitCode.OUT_OF_MEMORY]
    assert time.monotonic() - began < 30
    assert gone([seen(tmp_path, rank)["pid"] for rank in range(3)], 0.1)
    for rank in (0, 2):
        assert json.loads((tmp_path / f"heard-{rank}").read_text()) == [signal.SIGTERM]


def test_death_by_a_signal_is_passed_on_as_shells_do(tmp_path):
    prepare(tmp_path, ranks_file(2), {0: {"sleep": 60}, 1: {"kill": int(signal.SIGKILL)}})
    assert finish(start("spawn", tmp_path)) == [128 + signal.SIGKILL]


def test_the_wrapper_knows_a_signal_again(tmp_path):
    """Of a rank, through the starter of ranks: "killed" is retried, an exit code of 137 would be given up."""
    prepare(tmp_path, ranks_file(2), {1: {"kill": int(signal.SIGKILL)}})
    (tmp_path / "starter.py").write_text(
        "import os, pathlib, sys\nfrom gfm_pipeline.apps.runtime.spawn import main\n"
        "sys.exit(main(['told', 'spec.json'], pathlib.Path.cwd(), os.environ))\n"
    )
    there = {"PYTHONPATH": str(tmp_path)}
    assert run(Launch("starter", str(tmp_path), 60.0, there)).code == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_every_rank(tmp_path, number):
    prepare(tmp_path, ranks_file(2), {0: {"sleep": 60}, 1: {"sleep": 60}})
    process = start("spawn", tmp_path)
    wait_until(lambda: all((tmp_path / f"seen-{rank}").exists() for rank in (0, 1)))
    process.send_signal(number)
    assert finish(process) == [ExitCode.PREEMPTED]
    for rank in (0, 1):
        assert json.loads((tmp_path / f"heard-{rank}").read_text()) == [number]


def test_nothing_is_left_when_the_starter_is_killed(tmp_path):
    prepare(tmp_path, ranks_file(2), {0: {"sleep": 60}, 1: {"sleep": 60}})
    process = start("spawn", tmp_path)
    wait_until(lambda: all((tmp_path / f"seen-{rank}").exists() for rank in (0, 1)))
    process.kill()
    finish(process)
    assert gone([seen(tmp_path, rank)["pid"] for rank in (0, 1)])


def test_a_damaged_or_missing_file_is_said(tmp_path):
    prepare(tmp_path, ranks_file(1))
    (tmp_path / "launch.json").write_text('{"ranks": "many"}')
    assert finish(start("spawn", tmp_path)) == [ExitCode.PERMANENT]
    assert "launch.json" in json.loads((tmp_path / "error.json").read_text())["message"]
    (tmp_path / "launch.json").unlink()
    (tmp_path / "error.json").unlink()
    assert finish(start("spawn", tmp_path)) == [ExitCode.RETRYABLE]  # a shared file system may be late


def test_a_lost_connection_is_not_the_cause_when_another_code_is_seen_beside_it():
    ending = Ending()
    assert ending.poll([None, None, None], 0.0) is None
    assert ending.poll([ExitCode.RETRYABLE, 137, None], 1.0) is signal.SIGTERM
    assert ending.code == 137
    assert ending.poll([ExitCode.RETRYABLE, 137, None], 1.0 + GRACE_SECONDS - 0.1) is None
    assert ending.poll([ExitCode.RETRYABLE, 137, None], 1.0 + GRACE_SECONDS) is signal.SIGKILL
    ending = Ending()
    assert ending.poll([0, ExitCode.RETRYABLE], 0.0) is signal.SIGTERM
    assert ending.poll([30, ExitCode.RETRYABLE], 0.1) is None
    assert ending.code == ExitCode.RETRYABLE


def test_ranks_that_leave_together_are_given_time():
    ending = Ending()
    assert ending.poll([ExitCode.PREEMPTED, None], 5.0) is None
    assert ending.poll([ExitCode.PREEMPTED, None], 5.0 + TOGETHER_SECONDS - 0.1) is None
    assert ending.poll([ExitCode.PREEMPTED, None], 5.0 + TOGETHER_SECONDS) is signal.SIGTERM
    assert ending.poll([ExitCode.PREEMPTED, None], 5.0 + TOGETHER_SECONDS + GRACE_SECONDS) is signal.SIGKILL
    assert ending.code == ExitCode.PREEMPTED
