"""Runs one program for Parsl: own process group, parent-death signal, deadline, heartbeat, exit record.

Parsl starts only this. It cannot cancel a running app, and does not kill what an app started when a worker
dies, so both are done here. The engine learns how the attempt ended from ``exit.json`` and ``result.json`` in
the attempt's folder, never from the future alone: what finished just as the driver died is adopted later.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.apps.contracts.task import EXIT_FILE, HEARTBEAT_FILE, SPEC_FILE, ExitRecord
from gfm_pipeline.common.publish import write_record

POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 2.0
GRACE_SECONDS = 30.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Launch:
    """What to run and for how long: module, folder with its spec, variables to set."""

    module: str
    folder: str
    deadline_seconds: float
    environment: Mapping[str, str]


def command_line(launch: Launch) -> list[str]:
    """Return the program's argument list.

    ``env`` sets variables without this process reading its own; ``setpriv --pdeathsig`` ends the program
    when its worker dies, so that a killed driver leaves nothing running.
    """
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    variables = [f"{name}={value}" for name, value in sorted(launch.environment.items())]
    return [*guard, "env", *variables, sys.executable, "-m", launch.module, SPEC_FILE]


def run(launch: Launch) -> ExitRecord:
    """Run a program to its end or its deadline, and record how it ended in ``exit.json``."""
    folder = Path(launch.folder)
    heartbeat = folder / HEARTBEAT_FILE
    started = time.monotonic()
    timed_out = False
    with open(folder / "stdout.log", "ab") as out, open(folder / "stderr.log", "ab") as err:
        child = subprocess.Popen(
            command_line(launch), cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        beat = 0.0
        try:
            while child.poll() is None:
                now = time.monotonic()
                if now - beat >= HEARTBEAT_SECONDS:
                    heartbeat.touch()
                    beat = now
                if not timed_out and now - started > launch.deadline_seconds:
                    timed_out = True
                    _signal(child.pid, signal.SIGTERM)
                if timed_out and now - started > launch.deadline_seconds + GRACE_SECONDS:
                    _signal(child.pid, signal.SIGKILL)
                time.sleep(POLL_SECONDS)
        finally:
            _signal(child.pid, signal.SIGKILL)  # whatever the program left in its group
            child.wait()
    record = ExitRecord(child.returncode, timed_out, time.monotonic() - started)
    write_record(folder / EXIT_FILE, record)
    return record


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # already gone
