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
    """What to run, and its bounds.

    Parameters
    ----------
    module
        Run as ``python -m``.
    folder
        The attempt's, with its spec.
    deadline_seconds
        Longest wall time; then the program is asked to leave, and SIGKILL after the grace.
    environment
        Variables to set.
    heartbeat_timeout_seconds
        Longest time without a heartbeat; then SIGKILL.
    grace_seconds
        Between the request to leave and SIGKILL: time to save a checkpoint.
    log_bytes
        Kept of each of standard output and standard error.
    line
        Launch line of a task of several nodes (``srun ...``), before the interpreter.
    shim
        Module between the interpreter and the program, which gives each rank its number and its GPU.
    spec
        Name of the program's spec in the folder, its only argument; None: it takes none.
    cancel
        Command that ends what the launch line started on other nodes; ``{step}`` is its number. Killing the line
        itself does not.
    expects
        Files that the driver or another task wrote, which the program reads: waited for.
    visible_seconds
        The longest such wait, for file systems that show what other hosts write late.
    unanswered
        Regular expression for what the launch line says when the batch system does not answer it, so that nothing was
        started. It is then started again for a while: the program has not failed, its attempt is not used up.
    energy
        How the energy is counted: here, or with a launch line by the first rank of each node; None: it is not.
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
    # A launch line that is killed leaves its ranks behind; one that is asked to end takes them along.
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
    """Return the signal that asks a program to save and leave.

    srun answers SIGTERM by killing its ranks at once; SIGUSR1 it passes on to them.
    """
    return signal.SIGUSR1 if launch.line else signal.SIGTERM
