"""The training program: signals, the stop file, exit codes, and a batch too large for memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from training_cases import assert_same_state, lines, publish_dataset, run, small_spec

from gfm_pipeline.apps.train.setup import CHECKPOINTS
from gfm_pipeline.apps.train.task import last_graphs
from gfm_pipeline.core.contracts.task import ERROR_FILE, RESULT_FILE, SPEC_FILE, STOP_FILE, ExitCode
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, TrainSpec
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.core.records import read_record

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[DatasetRef, ...]:
    folder = tmp_path_factory.mktemp("data")
    return publish_dataset(folder, "soft", 0, 1.0), publish_dataset(folder, "hard", 10, 2.0)


@pytest.fixture
def spec(datasets, tmp_path) -> TrainSpec:
    return small_spec(datasets, tmp_path / "output")


# Leaves the training no more room than ROOM bytes beyond what a step with one graph needs.
LIMITED = """\
import ctypes, resource, sys
from dataclasses import replace
from gfm_pipeline.core.contracts.training import TrainSpec
from gfm_pipeline.apps.runtime.program import run_program
from gfm_pipeline.apps.train import task
make = task.prepare
def prepare(spec, *rest):
    warm = make(replace(spec, micro_batch=1), *rest)  # libraries take their buffers before the limit
    warm.step()
    warm.validate(4)
    made = make(spec, *rest)
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return made
task.prepare = prepare
sys.exit(run_program(TrainSpec, task.train))
"""


def test_a_batch_too_large_for_memory_fits_in_parts(spec, tmp_path):
    model = ModelSettings("PNA", hidden=64, layers=3, cutoff=3.0)
    optimiser = replace(spec.optimiser, batch_size=256)
    spec = replace(spec, model=model, optimiser=optimiser, budget_graphs=256, validate_every=256, validation_limit=4)
    whole = run(spec, tmp_path / "whole")
    (tmp_path / "limited.py").write_text(LIMITED.replace("ROOM", str(16 << 20)))
    codes = []
    for micro_batch in (None, 32, 8, 4):
        folder = tmp_path / f"a{micro_batch}"
        folder.mkdir()
        limited = replace(spec, micro_batch=micro_batch, output=str(tmp_path / "parts"))
        write_record(folder / SPEC_FILE, limited)
        command = [sys.executable, str(tmp_path / "limited.py"), SPEC_FILE]
        done = subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=240)
        codes.append(done.returncode)
        if done.returncode == ExitCode.OK:
            break
        assert "memory" in json.loads((folder / ERROR_FILE).read_text())["message"]
    assert codes[0] == ExitCode.OUT_OF_MEMORY
    assert codes[-1] == ExitCode.OK
    result = read_record(TrainResult, folder / RESULT_FILE)
    assert result.objective == pytest.approx(whole.objective, rel=1e-4)


def start(folder: Path, spec: TrainSpec) -> subprocess.Popen:
    folder.mkdir()
    write_record(folder / SPEC_FILE, spec)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gfm_pipeline.apps.train", SPEC_FILE]
    return subprocess.Popen(command, cwd=folder, env=environment)


def wait_for_progress(folder: Path, process: subprocess.Popen) -> None:
    while last_graphs(folder / "progress.jsonl") < 0:
        assert process.poll() is None
        time.sleep(0.01)


def test_sigterm_then_sigkill_then_the_same_weights(spec, tmp_path):
    spec = replace(spec, budget_graphs=3600, validate_every=400, checkpoint_every_seconds=0.4)
    whole = run(spec, tmp_path / "whole")
    spec = replace(spec, output=str(tmp_path / "published"))
    process = start(tmp_path / "a1", spec)
    wait_for_progress(tmp_path / "a1", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == ExitCode.PREEMPTED
    assert not (tmp_path / "a1" / RESULT_FILE).exists()
    spec = replace(spec, previous_attempts=(str(tmp_path / "a1"),))
    process = start(tmp_path / "a2", spec)
    wait_for_progress(tmp_path / "a2", process)
    process.kill()
    process.wait()
    assert not (tmp_path / "a2" / RESULT_FILE).exists()
    spec = replace(spec, previous_attempts=(str(tmp_path / "a1"), str(tmp_path / "a2")))
    assert start(tmp_path / "a3", spec).wait(240) == ExitCode.OK
    result = read_record(TrainResult, tmp_path / "a3" / RESULT_FILE)
    assert_same_state(whole.checkpoint, result.checkpoint)
    assert result.objective == whole.objective
    assert lines(tmp_path / "a1", tmp_path / "a2", tmp_path / "a3") == lines(tmp_path / "whole")
    assert result.graphs == whole.graphs


def test_stop_file_and_expected_errors_have_their_exit_codes(spec, tmp_path):
    process = start(tmp_path / "b", replace(spec, datasets=(DatasetRef("x", str(tmp_path / "nothing")),)))
    other = start(tmp_path / "a", spec)
    (tmp_path / "a" / STOP_FILE).touch()
    assert process.wait(240) == ExitCode.PERMANENT
    assert "never finished" in json.loads((tmp_path / "b" / ERROR_FILE).read_text())["message"]
    assert other.wait(240) == ExitCode.PREEMPTED
    assert list((tmp_path / "a" / CHECKPOINTS).glob("graphs-*"))
