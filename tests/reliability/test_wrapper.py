"""The task wrapper on programs that behave, hang, flood, fork, run on, and run out of memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gfm_pipeline.apps.runtime import wrapper
from gfm_pipeline.apps.runtime.attempt_monitor import AttemptMonitor
from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.apps.runtime.log_files import BoundedLog
from gfm_pipeline.apps.runtime.program import is_out_of_memory
from gfm_pipeline.apps.runtime.wrapper import run
from gfm_pipeline.core.contracts.task import (
    EXIT_FILE,
    HEARTBEAT_FILE,
    SPEC_FILE,
    STOP_FILE,
    WRAPPER_FILE,
    ErrorRecord,
    ExitCode,
    ExitRecord,
    WrapperRecord,
)
from gfm_pipeline.core.processes import group_members, identify, is_alive, kill_group
from gfm_pipeline.core.records import read_record
from gfm_pipeline.sites.launch import unanswered
from gfm_pipeline.sites.registry import load_site


@pytest.fixture
def attempt(tmp_path):
    """Return a function that writes a program and gives the `Launch` that runs it."""

    def make(source: str, **bounds) -> Launch:
        (tmp_path / "program.py").write_text(source)
        (tmp_path / "attempt").mkdir()
        (tmp_path / "attempt" / SPEC_FILE).write_text('{"amount": 3}')
        settings = {"deadline_seconds": 30.0, "grace_seconds": 1.0, **bounds}
        return Launch("program", str(tmp_path / "attempt"), environment={"PYTHONPATH": str(tmp_path)}, **settings)

    return make


def gone(pids: list[int]) -> bool:
    give_up = time.monotonic() + 5
    while time.monotonic() < give_up:
        if not any(identify(pid).started for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_exit_codes_and_logs_are_kept(attempt):
    launch = attempt("import sys; print('out'); print('err', file=sys.stderr); sys.exit(30)")
    record = run(launch)
    folder = Path(launch.folder)
    assert record == read_record(ExitRecord, folder / EXIT_FILE)
    assert record.code == ExitCode.PERMANENT
    assert (record.timed_out, record.silent, record.stopped) == (False, False, False)
    assert (folder / "stdout.log").read_text() == "out\n"
    assert (folder / "stderr.log").read_text() == "err\n"
    assert not (folder / WRAPPER_FILE).exists()


def test_logs_are_bounded_and_keep_head_and_tail(attempt):
    source = "import sys\nfor i in range(200000): print(f'line {i}')\nprint('last', file=sys.stderr)"
    launch = attempt(source, log_bytes=40_000)
    assert run(launch).code == 0
    text = (Path(launch.folder) / "stdout.log").read_text()
    assert len(text) < 40_000 + 100
    assert text.startswith("line 0\nline 1\n")
    assert text.endswith("line 199999\n")
    left_out = int(re.search(r"\.\.\. (\d+) bytes left out", text)[1])
    note = re.search(r"\n\.\.\. \d+ bytes left out here \.\.\.\n", text)[0]
    assert len(text) - len(note) + left_out == sum(len(f"line {i}\n") for i in range(200000))
    assert sorted(p.name for p in Path(launch.folder).glob("std*")) == ["stderr.log", "stdout.log"]


@pytest.mark.parametrize("size", [0, 1, 39, 40, 41, 59, 60, 61, 79, 80, 81, 500])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_bounded_log_loses_nothing_it_has_room_for(tmp_path, size, piece):
    data = bytes(65 + k % 26 for k in range(size))
    log = BoundedLog(tmp_path / "log", 80)
    for start in range(0, size, piece):
        log.write(data[start : start + piece])
    log.close()
    log.close()
    kept = (tmp_path / "log").read_bytes()
    if size <= 80:
        assert kept == data
    else:
        head, tail = re.split(rb"\n\.\.\. \d+ bytes left out here \.\.\.\n", kept)
        assert head == data[:40]
        assert tail == data[-len(tail) :]
        assert 20 < len(tail) <= 40


def test_past_the_deadline_it_may_save_then_is_killed(attempt, tmp_path):
    polite = "import signal, sys, time\nsignal.signal(15, lambda *a: sys.exit(21))\ntime.sleep(60)"
    record = run(attempt(polite, deadline_seconds=1.0))
    assert (record.code, record.timed_out) == (ExitCode.PREEMPTED, True)
    stubborn = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)"
    (tmp_path / "program.py").write_text(stubborn)
    record = run(
        Launch(
            "program",
            str(tmp_path / "attempt"),
            1.0,
            {"PYTHONPATH": str(tmp_path)},
            grace_seconds=0.5,
        )
    )
    assert (record.code, record.timed_out) == (-signal.SIGKILL, True)
    assert record.seconds < 20


def test_silent_program_is_killed_with_its_whole_group(attempt):
    source = (
        "import pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "for _ in range(8):\n    pathlib.Path('heartbeat').touch(); time.sleep(0.25)\n"
        "time.sleep(300)"
    )
    launch = attempt(source, heartbeat_timeout_seconds=1.0)
    record = run(launch)
    assert (record.code, record.silent, record.timed_out) == (-signal.SIGKILL, True, False)
    assert record.seconds > 2.5  # not while it showed life
    assert gone([int((Path(launch.folder) / "child").read_text())])


def test_children_left_behind_are_killed_when_the_program_ends(attempt):
    source = "import pathlib, subprocess\npathlib.Path('child').write_text(str(subprocess.Popen(['sleep','300']).pid))"
    launch = attempt(source)
    assert run(launch).code == 0
    assert gone([int((Path(launch.folder) / "child").read_text())])


def test_stop_file_ends_a_program_that_does_not_look_for_it(attempt):
    launch = attempt("import time; time.sleep(300)")
    threading.Timer(1.0, (Path(launch.folder) / STOP_FILE).touch).start()
    record = run(launch)
    assert (record.code, record.stopped) == (-signal.SIGTERM, True)


def test_clock_that_jumps_does_not_look_like_silence(tmp_path):
    """Only changes of the heartbeat's time count, so an hour forth or back is a sign of life like any other."""
    watch = AttemptMonitor(Launch("m", str(tmp_path), 1e9, {}, heartbeat_timeout_seconds=10.0), now=0.0)
    beat = tmp_path / HEARTBEAT_FILE
    beat.touch()
    for now, clock in ((5.0, 1e9), (14.0, 1e9 - 3600), (23.0, 1e9 + 7200)):
        os.utime(beat, (clock, clock))
        assert watch.poll(now) is None
    assert watch.poll(32.9) is None
    assert watch.poll(33.1) is signal.SIGKILL


def test_dead_wrapper_takes_its_program_along(attempt, tmp_path):
    launch = attempt("import pathlib, time\npathlib.Path('up').touch()\ntime.sleep(300)")
    code = (
        "from gfm_pipeline.apps.runtime.wrapper import Launch, run\n"
        f"run(Launch('program', {launch.folder!r}, 300.0, {{'PYTHONPATH': {str(tmp_path)!r}}}))"
    )
    wrapper = subprocess.Popen([sys.executable, "-c", code])
    while not ((Path(launch.folder) / "up").exists() and (Path(launch.folder) / WRAPPER_FILE).exists()):
        assert wrapper.poll() is None
        time.sleep(0.05)
    record = read_record(WrapperRecord, Path(launch.folder) / WRAPPER_FILE)
    assert record.wrapper.pid == wrapper.pid
    assert is_alive(record.program)
    wrapper.kill()
    wrapper.wait()
    assert gone([record.program.pid])
    assert not is_alive(record.program)


def test_groups_of_strangers_are_left_alone():
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        own = identify(child.pid)
        stranger = type(own)(own.host, own.boot_id, own.pid, str(int(own.started) - 1))
        elsewhere = type(own)("elsewhere", own.boot_id, own.pid, own.started)
        before_boot = type(own)(own.host, "another boot", own.pid, own.started)
        assert not any(kill_group(p) for p in (stranger, elsewhere, before_boot))
        assert group_members(child.pid) == [child.pid]
        assert kill_group(own)
        assert child.wait(5) == -signal.SIGKILL
        assert not kill_group(own)
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("raise MemoryError", ExitCode.OUT_OF_MEMORY),
        ("raise RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory')", ExitCode.OUT_OF_MEMORY),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", ExitCode.OUT_OF_MEMORY),
        ("raise OSError(12, 'Cannot allocate memory')", ExitCode.OUT_OF_MEMORY),
        ("raise OSError(5, 'Input/output error')", ExitCode.RETRYABLE),
        ("raise DataError('The input is wrong.')", ExitCode.PERMANENT),
        ("raise ValueError('a defect')", ExitCode.PERMANENT),
        ("raise StopRequested", ExitCode.PREEMPTED),
        ("return spec", ExitCode.OK),
        ("return spec, ExitCode.DIVERGED", ExitCode.DIVERGED),
    ],
)
def test_exit_code_table(attempt, body, code):
    source = (
        "import dataclasses, sys\n"
        "from gfm_pipeline.core.contracts.task import ExitCode\n"
        "from gfm_pipeline.apps.runtime.program import StopRequested, run_program\n"
        "from gfm_pipeline.core.errors import DataError\n"
        "@dataclasses.dataclass(frozen=True)\nclass Spec:\n    amount: int\n"
        f"def body(spec, task):\n    {body}\n"
        "if __name__ == '__main__':\n    sys.exit(run_program(Spec, body))\n"
    )
    launch = attempt(source)
    assert run(launch).code == code
    folder = Path(launch.folder)
    assert (folder / "result.json").exists() == (code in (ExitCode.OK, ExitCode.DIVERGED))
    assert (folder / HEARTBEAT_FILE).exists()
    failed = code in (ExitCode.OUT_OF_MEMORY, ExitCode.RETRYABLE, ExitCode.PERMANENT)
    assert (folder / "error.json").exists() == failed
    if failed:
        assert read_record(ErrorRecord, folder / "error.json").message


def test_out_of_memory_is_told_from_other_trouble():
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


SRUN = """\
echo start >> {folder}/starts
if [ $(wc -l < {folder}/starts) -le {silent} ]; then
  echo "srun: error: Unable to confirm allocation for job 6: {words}" >&2
  echo "srun: Check SLURM_JOB_ID environment variable. Expired or invalid job 6" >&2
  exit 1
fi
exec "$@"
"""
TIMED_OUT = "Socket timed out on send/recv operation"


@pytest.fixture
def srun(attempt, tmp_path, monkeypatch):
    """Return a function that gives a launch by a line that the batch system leaves unanswered ``silent`` times."""
    monkeypatch.setattr(wrapper, "AGAIN_SECONDS", 0.2)

    def make(source: str, silent: int, words: str = TIMED_OUT, **bounds) -> Launch:
        (tmp_path / "srun").write_text(SRUN.format(folder=tmp_path, silent=silent, words=words))
        site = load_site("frontier").model
        return attempt(source, line=("sh", str(tmp_path / "srun")), unanswered=unanswered(site), **bounds)

    return make


def starts(tmp_path: Path) -> int:
    return len((tmp_path / "starts").read_text().splitlines())


def test_a_launch_line_is_started_again_while_the_batch_system_does_not_answer(srun, tmp_path):
    record = run(srun("print('ran')", 3))
    assert (record.code, starts(tmp_path)) == (0, 4)
    assert (tmp_path / "attempt" / "stdout.log").read_text() == "ran\n"
    assert (tmp_path / "attempt" / "stderr.log").read_text().count(TIMED_OUT) == 3


@pytest.mark.parametrize(
    ("source", "silent", "words", "expected"),
    [
        ("import sys; sys.exit(7)", 1, TIMED_OUT, (7, 2)),  # what it said before does not count
        ("", 1, "Invalid job id specified", (1, 1)),  # the job is over
        ("", 99, TIMED_OUT, (1, None)),  # for too long
    ],
)
def test_a_launch_line_that_fails_for_another_reason_is_not(
    srun, tmp_path, monkeypatch, source, silent, words, expected
):
    monkeypatch.setattr(wrapper, "UNANSWERED_SECONDS", 1.5)
    record = run(srun(source, silent, words))
    assert record.code == expected[0]
    assert starts(tmp_path) == expected[1] or (expected[1] is None and 2 < starts(tmp_path) < 30)


def test_a_launch_line_that_waits_for_the_batch_system_can_be_stopped(srun, tmp_path, monkeypatch):
    monkeypatch.setattr(wrapper, "AGAIN_SECONDS", 30.0)
    launch = srun("print('ran')", 1)
    threading.Timer(1.0, (Path(launch.folder) / STOP_FILE).touch).start()
    began = time.monotonic()
    record = run(launch)
    assert record.stopped
    assert record.code == 1
    assert starts(tmp_path) == 1
    assert time.monotonic() - began < 20
