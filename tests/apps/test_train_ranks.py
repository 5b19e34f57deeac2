"""Training on several ranks: real processes that gloo connects, started as on a node."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exact_ranks import STEPS, Spec
from hypothesis import given, settings
from hypothesis import strategies as st
from ranked import ended, finish, gone, ranks_file, start, start_step, wait_until
from training_cases import assert_same_state, lines, publish_dataset, small_spec

from gfm_pipeline.apps.runtime.program import Task, is_device_failure
from gfm_pipeline.apps.runtime.spawn import free_port
from gfm_pipeline.apps.train.checkpoint import load
from gfm_pipeline.apps.train.device import torch_device
from gfm_pipeline.apps.train.load_balance import GROUP, assign, cost, partition
from gfm_pipeline.apps.train.setup import CHECKPOINTS
from gfm_pipeline.apps.train.task import last_graphs, train
from gfm_pipeline.core.contracts.task import ERROR_FILE, RESULT_FILE, SPEC_FILE, STOP_FILE, ExitCode
from gfm_pipeline.core.contracts.training import DatasetRef, Device, TrainSpec
from gfm_pipeline.core.contracts.training_result import StopReason, TrainResult
from gfm_pipeline.core.errors import ConfigError, NodeError
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.core.records import read_record

TESTS = Path(__file__).parents[1]
balance = SimpleNamespace(**runpy.run_path(str(TESTS.parent / "benchmarks" / "balance.py")))
ENVIRON = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
TRAIN = ("gfm_pipeline.apps.train", SPEC_FILE)
EXACT = ("exact_ranks", SPEC_FILE)

__all__ = ["ended"]  # used by every test


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[DatasetRef, ...]:
    folder = tmp_path_factory.mktemp("data")
    return publish_dataset(folder, "soft", 0, 1.0), publish_dataset(folder, "hard", 10, 2.0)


@pytest.fixture
def spec(datasets, tmp_path) -> TrainSpec:
    return small_spec(datasets, tmp_path / "output")


def launch(folder: Path, spec: TrainSpec | Spec) -> subprocess.Popen[bytes]:
    """Start all ranks of a training on this node."""
    folder.mkdir(parents=True)
    write_record(folder / SPEC_FILE, spec)
    ranks_file(spec.ranks).write(folder)
    return start("spawn", folder, ENVIRON, TRAIN if isinstance(spec, TrainSpec) else EXACT)


def done(folder: Path, spec: TrainSpec) -> TrainResult:
    if spec.ranks == 1:
        folder.mkdir()
        return train(spec, Task(folder))[0]
    assert finish(launch(folder, spec), seconds=180) == [ExitCode.OK]
    return read_record(TrainResult, folder / RESULT_FILE)


def assert_close_state(a: str | Path, b: str | Path) -> None:
    left, right = load(Path(a)), load(Path(b))
    assert left.state.graphs == right.state.graphs
    for name, weight in left.tensors.weights.items():
        torch.testing.assert_close(right.tensors.weights[name], weight, rtol=1e-2, atol=1e-3)


# --- pure parts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=300), st.integers(1, 300), st.data())
def test_shares_are_the_whole_batch_once_and_alike(costs, ranks, data):
    """Of any costs on any number of ranks, also fewer graphs than ranks."""
    costs = np.array(costs)
    owner = partition(costs, ranks)
    assert ((owner >= 0) & (owner < ranks)).all()
    np.testing.assert_array_equal(owner, partition(costs.copy(), ranks))
    for rank in {0, ranks - 1, data.draw(st.integers(0, ranks - 1))}:
        np.testing.assert_array_equal(assign(costs, rank, ranks), np.flatnonzero(owner == rank))
    loads = np.bincount(owner, weights=costs, minlength=ranks)
    if ranks <= GROUP:
        assert len(np.unique(owner)) == min(ranks, len(costs))  # none is idle while another has two
        assert loads.max() <= costs.sum() / ranks + costs.max()  # Graham's bound


@pytest.mark.parametrize("ranks", [7, 656, 1024, 1030])
@pytest.mark.parametrize("graphs", [16, 32])
@pytest.mark.parametrize("kind", ["molecules", "crystals", "mix"])
def test_loads_are_within_one_per_cent_of_the_mean(ranks, graphs, kind):
    """Unless one graph alone is more than a rank's mean."""
    costs = cost(*getattr(balance, kind)(np.random.default_rng(0), graphs * ranks))
    alone = costs.max() * ranks / costs.sum()
    assert balance.spread(costs, partition(costs, ranks), ranks) <= max(1.01, alone)


def test_shares_of_a_whole_machine_take_milliseconds():
    rng = np.random.default_rng(0)
    natoms = rng.integers(5, 200, 16 * 16_384)
    costs = cost(natoms, 40 * natoms)
    began = time.process_time()
    mine = assign(costs, 12_345, 16_384)
    assert time.process_time() - began < 1.0
    assert costs[mine].sum() < 1.02 * costs.sum() / 16_384


def test_what_cannot_be_shared_is_refused(spec, tmp_path):
    with pytest.raises(ConfigError, match="batches of 8 graphs between 9 ranks: some would have none"):
        train(replace(spec, ranks=9), Task(tmp_path))
    with pytest.raises(ConfigError, match="at least one rank"):
        train(replace(spec, ranks=0), Task(tmp_path))


def test_a_device_that_is_not_there_is_said():
    assert torch_device(Device.CPU) == torch.device("cpu")
    for device, module in ((Device.CUDA, torch.cuda), (Device.XPU, torch.xpu)):
        if not module.is_available():
            with pytest.raises((ConfigError, NodeError), match=str(device)):
                torch_device(device)


def test_failures_of_accelerators_are_the_machines():
    assert is_device_failure(RuntimeError("CUDA error: uncorrectable ECC error encountered"))
    assert is_device_failure(RuntimeError("HIP error: unspecified launch failure"))
    assert not is_device_failure(RuntimeError("shape mismatch"))


# --- sums, in double precision


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """What ranks find, by number of ranks and micro-batch."""
    folder = tmp_path_factory.mktemp("exact")
    found = {}
    for ranks, micro_batch in ((1, None), (4, None), (2, 2)):
        place = folder / f"{ranks}-{micro_batch}"
        assert finish(launch(place, Spec(ranks, micro_batch=micro_batch)), seconds=180) == [0]
        found[ranks, micro_batch] = [dict(np.load(place / f"found-{k}.npz")) for k in range(ranks)]
        assert json.loads((place / RESULT_FILE).read_text()) == {"rank": 0}
    return found


@pytest.mark.parametrize("case", [(4, None), (2, 2)])
def test_gradients_losses_and_validations_are_those_of_one_rank(exact, case):
    """Of three steps with clipping, for every algorithm and both force heads, with missing labels."""
    (alone,) = exact[1, None]
    ranks = exact[case]
    assert len([key for key in alone if "gradient" in key]) == STEPS * 6
    for key, expected in alone.items():
        for found in ranks:
            np.testing.assert_array_equal(found[key], ranks[0][key])  # the same bits on all ranks
        scale = np.abs(expected).max()
        assert np.abs(ranks[0][key] - expected).max() <= 1e-9 * scale, key
        if "gradient0" in key or "score" in key:
            assert np.abs(ranks[0][key] - expected).max() <= 1e-12 * scale, key


# --- training


def test_several_ranks_train_the_model_that_one_does(spec, tmp_path):
    one = done(tmp_path / "one", replace(spec, output=str(tmp_path / "o1")))
    for ranks in (2, 4):
        folder = tmp_path / f"r{ranks}"
        result = done(folder, replace(spec, ranks=ranks, output=str(tmp_path / f"o{ranks}")))
        assert (result.graphs, result.steps, result.stop_reason) == (one.graphs, one.steps, StopReason.BUDGET)
        assert result.objective == pytest.approx(one.objective, rel=2e-3)
        assert_close_state(one.checkpoint, result.checkpoint)
        assert [x["graphs"] for x in lines(folder)] == [x["graphs"] for x in lines(tmp_path / "one")]
    kinds = {t.device.type for t in load(Path(result.checkpoint)).tensors.weights.values()}
    assert kinds == {"cpu"}


def test_stopped_ranks_save_and_go_on_bit_for_bit_or_as_another_number(spec, tmp_path):
    spec = replace(spec, budget_graphs=2400, validate_every=400, ranks=2)
    whole = done(tmp_path / "whole", replace(spec, output=str(tmp_path / "w")))
    attempt = tmp_path / "a"
    process = launch(attempt, replace(spec, output=str(tmp_path / "x")))
    wait_until(lambda: last_graphs(attempt / "progress.jsonl") >= 0)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == [ExitCode.PREEMPTED]
    assert not (attempt / RESULT_FILE).exists()
    assert not (attempt / ERROR_FILE).exists()
    assert list((attempt / CHECKPOINTS).glob("graphs-*"))
    on = replace(spec, previous_attempts=(str(attempt),))
    same = done(tmp_path / "same", replace(on, output=str(tmp_path / "s")))
    assert_same_state(whole.checkpoint, same.checkpoint)
    assert same.objective == whole.objective
    assert lines(attempt, tmp_path / "same") == lines(tmp_path / "whole")
    for ranks in (1, 3):
        other = done(tmp_path / f"other{ranks}", replace(on, ranks=ranks, output=str(tmp_path / f"o{ranks}")))
        assert (other.graphs, other.steps) == (whole.graphs, whole.steps)
        assert other.objective == pytest.approx(whole.objective, rel=0.1)


def test_all_ranks_leave_when_one_is_asked_to(spec, tmp_path):
    """Each under a launcher that asks rank 1 only; and by the stop file, which rank 0 looks for."""
    for how in ("signal", "file"):
        folder = tmp_path / how
        folder.mkdir()
        write_record(folder / SPEC_FILE, replace(spec, ranks=2, budget_graphs=10**6))
        ranks_file(2, master_port=free_port()).write(folder)
        processes = start_step(folder, 2, words=TRAIN)
        wait_until(lambda place=folder: last_graphs(place / "progress.jsonl") >= 0)
        if how == "signal":
            processes[1].send_signal(signal.SIGUSR1)
        else:
            (folder / STOP_FILE).touch()
        assert finish(*processes) == [ExitCode.PREEMPTED, 0]  # the starter of rank 1 leaves the word to rank 0
        assert load(next((folder / CHECKPOINTS).glob("graphs-*"))).state.graphs > 0


def test_a_killed_rank_ends_the_others_soon_and_may_be_tried_again(spec, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    write_record(folder / SPEC_FILE, replace(spec, ranks=2, budget_graphs=10**6))
    ranks_file(2, master_port=free_port()).write(folder)
    processes = start_step(folder, 2, words=TRAIN)
    wait_until(lambda: last_graphs(folder / "progress.jsonl") >= 0)
    processes[1].kill()  # as when its node is lost: nobody is left there to tell
    began = time.monotonic()
    assert finish(*processes) == [ExitCode.RETRYABLE, -signal.SIGKILL]
    assert time.monotonic() - began < 20
    assert "lost the other ranks of its task" in json.loads((folder / ERROR_FILE).read_text())["message"]
    process = launch(tmp_path / "b", replace(spec, ranks=2, budget_graphs=10**6))
    wait_until(lambda: last_graphs(tmp_path / "b" / "progress.jsonl") >= 0)
    victim = next(child for child in _children(process.pid) if _variable(child, "RANK") == "1")
    os.kill(victim, signal.SIGKILL)
    assert finish(process) == [128 + signal.SIGKILL]
    assert gone(_children(process.pid), 5)


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] if alive(pid) else []


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/task").exists()


def _variable(pid: int, name: str) -> str | None:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((e.decode().partition("=")[2] for e in entries if e.startswith(name.encode() + b"=")), None)


def test_divergence_is_a_result_of_all_ranks(spec, tmp_path):
    spec = replace(spec, ranks=2, optimiser=replace(spec.optimiser, learning_rate=1e30, warmup=1))
    assert finish(launch(tmp_path / "a", spec)) == [ExitCode.DIVERGED]
    result = read_record(TrainResult, tmp_path / "a" / RESULT_FILE)
    assert result.stop_reason is StopReason.DIVERGED
    assert not Path(spec.output).exists()


def test_a_published_result_is_found_again_by_all_ranks(spec, tmp_path):
    first = done(tmp_path / "a", replace(spec, ranks=2, budget_graphs=16))
    again = done(tmp_path / "b", replace(spec, ranks=2, budget_graphs=16, datasets=(DatasetRef("gone", "/none"),)))
    assert again == first


@pytest.mark.parametrize(
    ("mischief", "code", "sentence"),
    [
        ("drift", ExitCode.RETRYABLE, "weights differ after 12 graphs"),
        ("silent", ExitCode.RETRYABLE, "lost the other ranks"),
        ("error", ExitCode.PERMANENT, "a defect of this rank alone"),
    ],
)
def test_ranks_that_drift_hang_or_fail_end_the_task_with_a_sentence(tmp_path, mischief, code, sentence):
    assert finish(launch(tmp_path / "a", Spec(2, mischief=mischief, timeout=4.0))) == [code]
    assert sentence in json.loads((tmp_path / "a" / ERROR_FILE).read_text())["message"]


def test_a_rank_that_nobody_started_as_one_is_refused(spec, tmp_path):
    write_record(tmp_path / SPEC_FILE, replace(spec, ranks=2))
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", *TRAIN]
    assert subprocess.run(command, cwd=tmp_path, env=environ, check=False, timeout=60).returncode == ExitCode.PERMANENT
    assert "not started as one of them" in json.loads((tmp_path / ERROR_FILE).read_text())["message"]
