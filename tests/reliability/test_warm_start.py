"""Programs forked from a server that has their libraries imported are as those that are started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from training_cases import assert_same_state, lines, publish_dataset, small_spec

from gfm_pipeline.apps.runtime import warm_start
from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.apps.runtime.warm_start import WarmProgram, WarmServer, WarmStarter
from gfm_pipeline.apps.runtime.wrapper import run
from gfm_pipeline.core.contracts.task import ERROR_FILE, PROGRESS_FILE, RESULT_FILE, SPEC_FILE, STOP_FILE, ExitCode
from gfm_pipeline.core.publish import write_record

TRAIN = "gfm_pipeline.apps.train"
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmStarter]:
    """Return a starter whose server is ready."""
    starter = WarmStarter()
    ready(starter)
    yield starter
    starter.close()


def ready(starter: WarmStarter, environment: dict[str, str] = ENVIRONMENT) -> None:
    """Start the server of a starter and wait until it has imported everything."""
    starter._server = WarmServer(warm_start_command(Launch(TRAIN, "/", 60.0, environment)))
    starter._environment = environment
    assert starter._server.ready(300.0)


def warm_start_command(launch: Launch) -> Callable[[str], list[str]]:
    from gfm_pipeline.apps.runtime.launch import command_line

    return lambda socket: command_line(replace(launch, module=warm_start.SERVER, spec=socket))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of the programs that servers fork from now on."""
    found: list[int] = []
    real = warm_start.WarmServer.start

    def spy(*arguments: object) -> WarmProgram | None:
        program = real(*arguments)  # type: ignore[arg-type]
        found.extend([] if program is None else [program.pid])
        return program

    monkeypatch.setattr(warm_start.WarmServer, "start", spy)
    return found


def attempt(folder: Path, **changes: object) -> Launch:
    """Write the spec of a training into a new folder and return its launch."""
    folder.mkdir(parents=True)
    dataset = publish_dataset(folder.parent / f"{folder.name}-data", "a", 1, 1.0)
    spec = replace(small_spec((dataset,), folder / "out"), **changes)
    write_record(folder / SPEC_FILE, spec)
    return Launch(TRAIN, str(folder), 120.0, ENVIRONMENT, grace_seconds=20.0)


def test_a_training_is_the_same_to_the_bit(warm: WarmStarter, forked: list[int], tmp_path: Path) -> None:
    for name, starter in (("anew", None), ("forked", warm), ("again", warm)):
        record = run(attempt(tmp_path / name), warm=starter)
        assert record.code == 0, (tmp_path / name / "stderr.log").read_text()
    assert len(forked) == 2
    results = [json.loads((tmp_path / name / RESULT_FILE).read_text()) for name in ("anew", "forked", "again")]
    assert len({result["digest"] for result in results}) == 1
    assert lines(tmp_path / "anew") == lines(tmp_path / "forked")
    assert_same_state(tmp_path / "anew" / "out", tmp_path / "forked" / "out")
    assert not any(psutil.pid_exists(pid) for pid in forked)


def test_failures_are_said_as_ever(warm: WarmStarter, forked: list[int], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / SPEC_FILE).write_text("{}")
    record = run(Launch(TRAIN, str(tmp_path / "a"), 60.0, ENVIRONMENT), warm=warm)
    assert record.code == ExitCode.PERMANENT
    assert "message" in json.loads((tmp_path / "a" / ERROR_FILE).read_text())
    assert len(forked) == 1


def test_one_that_is_asked_to_stop_saves_and_leaves(warm: WarmStarter, forked: list[int], tmp_path: Path) -> None:
    launch = attempt(tmp_path / "a", budget_graphs=10_000_000)

    def stop_when_it_trains() -> None:
        give_up = time.monotonic() + 60
        while not (tmp_path / "a" / PROGRESS_FILE).exists() and time.monotonic() < give_up:
            time.sleep(0.1)
        (tmp_path / "a" / STOP_FILE).touch()

    asking = threading.Thread(target=stop_when_it_trains)
    asking.start()
    assert run(launch, warm=warm).code == ExitCode.PREEMPTED
    asking.join()
    assert (tmp_path / "a" / "checkpoints").is_dir()
    assert len(forked) == 1


def test_one_past_its_deadline_is_killed_with_its_group(
    warm: WarmStarter, forked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = attempt(tmp_path / "a", budget_graphs=10_000_000)
    record = run(replace(launch, deadline_seconds=1.0, grace_seconds=0.0), warm=warm)
    assert record.timed_out
    assert record.code in (-signal.SIGKILL, ExitCode.PREEMPTED)
    assert run(attempt(tmp_path / "b"), warm=warm).code == 0  # the server serves on
    assert len(forked) == 2
    assert not any(psutil.pid_exists(pid) for pid in forked)


def test_what_it_is_made_of(warm: WarmStarter, tmp_path: Path) -> None:
    """A session, a folder, an output and a parent-death signal of its own; one thread of the server's at the fork."""
    launch = attempt(tmp_path / "a", budget_graphs=10_000_000)
    write, read = {}, {}
    for name in ("out", "err"):
        read[name], write[name] = os.pipe()
    program = warm.start(
        TRAIN, launch.folder, [SPEC_FILE], ENVIRONMENT, warm_start_command(launch), (write["out"], write["err"])
    )
    assert program is not None
    process = psutil.Process(program.pid)
    assert os.getsid(program.pid) == os.getpgid(program.pid) == program.pid
    assert process.cwd() == str(tmp_path / "a")
    assert warm._server is not None
    assert process.ppid() == warm._server._process.pid
    os.killpg(program.pid, signal.SIGTERM)
    assert program.wait() in (ExitCode.PREEMPTED, -signal.SIGTERM)
    for end in (*write.values(), *read.values()):
        os.close(end)


def test_it_ends_with_the_worker(tmp_path: Path) -> None:
    """A worker that is killed takes its server along, and the program that this forked."""
    launch = attempt(tmp_path / "a", budget_graphs=10_000_000)
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys, time\n"
        "from gfm_pipeline.apps.runtime.warm_start import WarmStarter\n"
        "from gfm_pipeline.apps.runtime.launch import Launch, command_line\n"
        "from gfm_pipeline.apps.runtime.wrapper import run\n"
        "from test_warm_start import ready\n"
        "starter = WarmStarter()\n"
        "ready(starter)\n"
        f"run(Launch({TRAIN!r}, {launch.folder!r}, 600.0, {ENVIRONMENT!r}), warm=starter)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    process = subprocess.Popen([sys.executable, str(worker)], env={**os.environ, "PYTHONPATH": path})
    try:
        progress = tmp_path / "a" / "progress.jsonl"
        while not progress.exists():
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2  # the server and the program
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_without_a_server_programs_are_started_anew(
    tmp_path: Path, forked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other programs, a server that is not ready, another environment than the server's, and a server that died."""
    starter = WarmStarter()
    try:
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / SPEC_FILE).write_text("{}")
        (tmp_path / "program.py").write_text("print('anew')")
        launch = Launch("program", str(tmp_path / "p"), 60.0, {"PYTHONPATH": str(tmp_path)})
        assert run(launch, warm=starter).code == 0
        assert starter._server is None  # nothing is kept for programs that are not known
        monkeypatch.setattr(warm_start, "READY_SECONDS", 0.0)
        assert run(attempt(tmp_path / "a"), warm=starter).code == 0  # its server is not ready
        first = starter._server
        assert first is not None
        assert run(replace(attempt(tmp_path / "b"), environment={"OMP_NUM_THREADS": "2"}), warm=starter).code == 0
        assert first.gone
        assert starter._server is not None
        starter._server._process.kill()  # as one that died
        starter._server._process.wait()
        assert run(attempt(tmp_path / "c"), warm=starter).code == 0
        assert not forked
    finally:
        starter.close()


def test_what_forking_would_break_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import threading, time; from gfm_pipeline.apps.runtime.warm_start import safe_to_fork; print(safe_to_fork());"
    )
    thread = "threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); print(safe_to_fork())"
    mpi = "; import sys, types; sys.modules['mpi4py.MPI'] = types.ModuleType('MPI'); print(safe_to_fork())"
    for more, expected in ((thread, "True\nFalse\n"), (mpi[2:], "True\nFalse\n")):
        done = subprocess.run([sys.executable, "-c", code + more], capture_output=True, text=True, check=True)
        assert done.stdout == expected
