"""Looks up in ``faults.json``, beside the workflow, what this attempt at this task has to suffer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pretend import train as pretended

from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.task import ExitCode
from gfm_pipeline.core.contracts.training import TrainSpec
from gfm_pipeline.core.contracts.training_result import StopReason, TrainResult
from gfm_pipeline.core.errors import DataError

WORKFLOW_FOLDER = 6  # levels above campaigns/NAME/stages/STAGE/tasks/TASK/attempt-N


def fault(attempt: Path) -> str:
    """Return the fault of this attempt, '' for none; a task's last fault is repeated for ever with a ``*`` before."""
    plan = json.loads((attempt.parents[WORKFLOW_FOLDER] / "faults.json").read_text())
    faults = plan.get(attempt.parent.name, [])
    number = int(attempt.name.partition("-")[2]) - 1
    if number < len(faults):
        return faults[number].lstrip("*")
    return faults[-1][1:] if faults and faults[-1].startswith("*") else ""


def train(spec: TrainSpec, task: Task) -> tuple[TrainResult, ExitCode]:
    match fault(task.folder):
        case "memory":
            raise MemoryError("no room")
        case "torch memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "worker":  # the Parsl worker that runs the wrapper dies
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(300)
        case "hang":  # with a child that would outlive it
            child = subprocess.Popen(["sleep", "300"])
            (task.folder / "child").write_text(str(child.pid))
            time.sleep(300)
        case "stuck worker":  # the wrapper, and with it all signs of life, stops; Parsl notices nothing
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(300)
        case "trouble":
            raise TimeoutError("the network is slow")
        case "user":
            raise DataError("The energies are in the wrong unit.", "Set energy_unit.")
        case "bug":
            raise ZeroDivisionError("division by zero")
        case "nan":
            nothing = TrainResult(StopReason.DIVERGED, None, {}, 10, 1, 1, 0.1, 1.0, None, None, "the loss is nan")
            return nothing, ExitCode.DIVERGED
        case "no end":
            while not task.stop_requested:
                time.sleep(0.05)
            return pretended.train(spec, task)
    return pretended.train(spec, task)


if __name__ == "__main__":
    sys.exit(run_program(TrainSpec, train))
