"""Programs that several ranks run, and what starts them, for the tests of `sites.rank` and `sites.spawn`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gfm_pipeline.core.contracts.attempts.launch import DeviceSelection, RankFile
from gfm_pipeline.core.processes import identify

PLAIN = RankFile(
    ranks=1,
    ranks_per_node=1,
    nodes=(),
    master_address="127.0.0.1",
    master_port=0,
    visible_variable=None,
    rank_gpus=(),
    rank_cores=(),
    bind=False,
    device=DeviceSelection.RANK,
    unset=(),
    exports={},
    rank_variable="SLURM_PROCID",
    local_rank_variable="SLURM_LOCALID",
    wrapper_timeout_seconds=300.0,
)
# Says what it sees, then does what the spec tells its rank to.
PROGRAM = """\
import json, os, pathlib, signal, sys, time
rank = os.environ["RANK"]
wanted = json.loads(pathlib.Path(sys.argv[1]).read_text()).get(rank, {})
signals = []
def heard(number, frame):
    signals.append(number)
    pathlib.Path(f"heard-{rank}").write_text(json.dumps(signals))
    if wanted.get("leave", True):
        sys.exit(wanted.get("on_signal", 21))
signal.signal(signal.SIGTERM, heard)
signal.signal(signal.SIGUSR1, heard)
seen = {"environ": dict(os.environ), "cores": sorted(os.sched_getaffinity(0)), "pid": os.getpid()}
pathlib.Path(f".seen-{rank}").write_text(json.dumps(seen))
os.rename(f".seen-{rank}", f"seen-{rank}")
time.sleep(wanted.get("sleep", 0))
if "kill" in wanted:
    os.kill(os.getpid(), wanted["kill"])
sys.exit(wanted.get("code", 0))
"""


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """End what a failed test has left running; modules that start ranks import this."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.wait()
    STARTED.clear()


def prepare(folder: Path, file: RankFile, wanted: Mapping[int, Mapping[str, Any]] | None = None) -> Path:
    """Make an attempt's folder with a program in it; ``wanted`` says what each rank does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "told.py").write_text(PROGRAM)
    (folder / "spec.json").write_text(json.dumps({str(k): v for k, v in (wanted or {}).items()}))
    file.write(folder)
    return folder


def start(
    starter: str, folder: Path, environ: Mapping[str, str] | None = None, words: Sequence[str] = ("told", "spec.json")
) -> subprocess.Popen[bytes]:
    """Start ``gfm_pipeline.sites.<starter>`` as a launcher would; what it says is added to ``shown``."""
    with open(folder / "shown", "a") as shown:
        process = subprocess.Popen(
            [sys.executable, "-m", f"gfm_pipeline.apps.runtime.{starter}", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), **(environ or {})},  # where ``told`` lies
            stderr=shown,
        )
    STARTED.append(process)
    return process


def start_step(folder: Path, ranks: int, **how: Any) -> list[subprocess.Popen[bytes]]:
    """Start every rank of a step on this machine, as srun does."""
    return [start("rank", folder, {"SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)}, **how) for k in range(ranks)]


def finish(*processes: subprocess.Popen[bytes], seconds: float = 240.0) -> list[int]:
    """Return the exit codes of processes."""
    return [process.wait(seconds) for process in processes]


def seen(folder: Path, rank: int) -> dict[str, Any]:
    """Return what a rank's program saw."""
    found: dict[str, Any] = json.loads((folder / f"seen-{rank}").read_text())
    return found


def wait_until(what: Callable[[], bool], seconds: float = 240.0) -> None:
    give_up = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.05)


def ranks_file(ranks: int, **changes: Any) -> RankFile:
    return replace(PLAIN, ranks=ranks, **{"ranks_per_node": ranks, **changes})


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if not any(identify(pid).started for pid in pids):
            return True
        time.sleep(0.05)
    return False
