"""Run the command line in a process of its own, and read what it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read

SMALL = """\
name: small
seed: 3
data:
  sources:
    alloys:
      reader: emt-alloys
      shards: 2
      options: {parents: 60, children: 2, sizes: [4]}
    water:
      reader: xtb-md
      options: {molecules: [H2O, CH4], temperatures: [300, 600], replicas: 6, frames: 2}
  validation: 0.2
  test: 0.2
search:
  candidates: 4
  asynchronous: false
  rungs: [100, 200]
  reduction: 2
  space:
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    hidden: [8]
    layers: [1, 2]
    cutoff: 4.0
    learning_rate: {low: 1e-3, high: 1e-2, scale: log}
    force_weight: 5
converge:
  members: 2
  check_every: 400
  patience: 2
  max_graphs: 1600
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gfm_pipeline", *arguments]


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with open(folder / "driver.log", "ab") as log:
        return subprocess.Popen(command(*arguments), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def finish(folder: Path, *arguments: str, code: int = 0) -> None:
    process = start(folder, *arguments)
    returned = process.wait(timeout=400)
    assert returned == code, (folder / "driver.log").read_text()[-3000:]


def events(journal: Path) -> list[ev.Event]:
    return [ev.from_entry(e.kind, e.data) for e in read(journal)] if journal.exists() else []


def wait_for(journal: Path, wanted, seconds: float = 180.0) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if any(wanted(event) for event in events(journal)):
            return
        time.sleep(0.05)
    raise AssertionError("the campaign never came so far")


def kill(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that work for the campaigns below ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            where = process.cwd()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and (str(folder) in line or where.startswith(str(folder))):
            found.append(line)
    return found


def outcome(journal: Path) -> dict[str, object]:
    """Return everything a campaign decided and made, without times."""
    found: dict[str, object] = {}
    for event in events(journal):
        match event:
            case ev.StageDone(key, outputs):
                found[f"outputs {key}"] = outputs
            case ev.WaveProposed(_, wave, candidates):
                found[f"wave {wave}"] = [(c.name, c.settings) for c in candidates]
            case ev.RungDecided(_, wave, rung, promoted, stopped):
                found[f"rung {wave} {rung}"] = (promoted, stopped)
            case ev.MembersSelected(_, members):
                found["members"] = members
            case ev.TaskEnded(_, task, _, ev.AttemptOutcome.OK):
                result = dict(event.result or {})
                found[f"task {task}"] = {k: result.get(k) for k in ("objective", "digest", "datasets", "stop_reason")}
    return found


def starts(journal: Path) -> dict[str, list[str]]:
    """Return, task by task, the order of its starts and ends."""
    story: dict[str, list[str]] = {}
    for event in events(journal):
        if isinstance(event, ev.TaskStarted):
            story.setdefault(event.task, []).append("start")
        elif isinstance(event, ev.TaskEnded):
            story[event.task].append(str(event.outcome))
    return story


def output(folder: Path, *arguments: str) -> str:
    """Return what a command says on standard output."""
    done = subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
