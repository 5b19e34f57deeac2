"""The launch of one attempt: its program, its limits, and its command line."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from gfm_pipeline.core.contracts.energy import EnergyPlan
from gfm_pipeline.core.contracts.task import (
    SPEC_FILE,
)
from gfm_pipeline.core.interpreter import module_command, without_current_folder
from gfm_pipeline.core.processes import RUN


@dataclass(frozen=True)
class Launch:
    """A program and its limits.

    Parameters
    ----------
    module
        Module for ``python -m``.
    folder
        Folder of the attempt, with its spec.
    deadline_seconds
        Longest wall time; then the wrapper asks the program to end, and sends SIGKILL after the grace.
    environment
        Variables to set.
    heartbeat_timeout_seconds
        Longest time without a heartbeat; then SIGKILL.
    grace_seconds
        Time between the request to end and SIGKILL, to save a checkpoint.
    log_bytes
        Bytes kept of each of standard output and standard error.
    line
        Launch line of a task of several nodes (``srun ...``), before the interpreter.
    shim
        Module between the interpreter and the program; it gives each rank its number and its GPU.
    spec
        Name of the program's spec in the folder, its only argument; None: no argument.
    cancel
        Command that ends the processes of the launch line on other nodes; ``{step}`` is its number. Killing the line
        itself does not end them.
    expects
        Files from the driver or another task that the program reads; the wrapper waits for them.
    visible_seconds
        Longest wait for them, for file systems that show files from other hosts late.
    unanswered
        Regular expression for the message of the launch line when the batch system does not answer and nothing has
        started. The wrapper then repeats the launch for a while: the program has not failed, and the attempt is not
        used up.
    energy
        How to count energy: here, or with a launch line by the first rank of each node; None: no counting.
    """

    module: str
    folder: str
    deadline_seconds: float
    environment: Mapping[str, str]
    heartbeat_timeout_seconds: float = 900.0
    grace_seconds: float = 30.0
    log_bytes: int = 10_000_000
    line: tuple[str, ...] = ()
    shim: str | None = None
    spec: str | None = SPEC_FILE
    cancel: tuple[str, ...] = ()
    unanswered: str = ""
    expects: tuple[str, ...] = ()
    visible_seconds: float = 0.0
    energy: EnergyPlan | None = None


def command_line(launch: Launch) -> list[str]:
    """Return the program's argument list.

    ``env`` sets variables without this process reading its own; ``setpriv --pdeathsig`` ends the program
    when its worker dies, so that a killed driver leaves nothing running.
    """
    # Killing a launch line leaves its ranks running; asking it to end also ends them.
    death = "TERM" if launch.line else "KILL"
    guard = ["setpriv", "--pdeathsig", death, "--"] if shutil.which("setpriv") else []
    set_here = dict(launch.environment)
    if "PYTHONPATH" in set_here:
        set_here["PYTHONPATH"] = without_current_folder(set_here["PYTHONPATH"])
    variables = [f"{name}={value}" for name, value in sorted(set_here.items())]
    modules = [launch.module] if launch.shim is None else [launch.shim, launch.module]
    arguments = [] if launch.spec is None else [launch.spec]
    between = RUN if "=" in sys.executable and not launch.line else ()
    return [*guard, "env", *variables, *launch.line, *between, *module_command(*modules, *arguments)]


def request_of(launch: Launch) -> signal.Signals:
    """Return the signal that asks a program to save and end.

    After SIGTERM, srun kills its ranks at once; it passes SIGUSR1 on to them.
    """
    return signal.SIGUSR1 if launch.line else signal.SIGTERM
