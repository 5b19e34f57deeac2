"""Runs one rank of a task: ``python -m gfm_pipeline.apps.runtime.rank MODULE SPEC``, in the attempt's folder.

srun or mpiexec starts this once per rank. It reads the rank's number from the launcher's variables, and gives the
program its GPU, cores and environment from ``launch.json``. It stays as the parent of the program, passes signals on,
and returns the program's exit code.

Launchers have exit codes of their own (the highest, 1, that of a rank they killed because another had failed), so the
first rank that fails records this in ``verdict`` for the task wrapper. When the task diverged or was stopped, rank 0
reports it for all ranks: the others exit with 0, and rank 0 exits last, because srun with ``--kill-on-bad-exit`` kills
all remaining ranks when the first exits with another code.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gfm_pipeline.apps.energy.attempt_meter import AttemptMeter
from gfm_pipeline.apps.runtime.grouped_launch import run_member
from gfm_pipeline.apps.runtime.rank_assignment import (
    RankAssignment,
    assignment_of,
    bind_cores,
    rank_environment,
    refuse,
    start_program,
    step_of,
)
from gfm_pipeline.apps.runtime.supervise import Signals, WrapperHeartbeat, end_program, supervise
from gfm_pipeline.core.contracts.attempts.launch import GROUP_FILE, LAUNCH_FILE, RankFile
from gfm_pipeline.core.contracts.attempts.records import (
    STEP_FILE,
    TOGETHER,
    WRAPPER_FILE,
    ExitCode,
    write_first_failure,
)
from gfm_pipeline.core.errors import ConfigError, GFMError
from gfm_pipeline.core.publish import write_atomic
from gfm_pipeline.core.visibility import START_SECONDS, wait_for

LAST_SECONDS = 2.0  # delay of the exit of rank 0 after the others
CANCEL_SECONDS = 60.0  # for the command that ends the step


def cancel_step(command: Sequence[str], step: str | None) -> None:
    """Run the site's command that ends a whole step; the batch system reports whether it worked."""
    line = [part.replace("{step}", step or "") for part in command]
    if not line or (step is None and any("{step}" in part for part in command)):
        return
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(line, check=False, timeout=CANCEL_SECONDS, stdin=subprocess.DEVNULL)


def run_rank(module: str, spec: str, folder: Path, environ: Mapping[str, str], signals: Signals) -> int:
    """Run the rank of this process, and return its exit code.

    Raises
    ------
    GFMError
        When the rank cannot get the site's resources, or its folder is damaged.
    """
    wait_for([folder / LAUNCH_FILE], START_SECONDS)
    file = RankFile.read(folder)
    wait_for(map(Path, file.expects), file.visible_seconds)  # the program reports files that never appear
    seat = assignment_of(file, environ)
    environment = rank_environment(environ, file, seat)
    bind_cores(file, seat)
    step = step_of(environ)
    pulse = None
    if seat.rank == 0:
        pulse = WrapperHeartbeat(folder / WRAPPER_FILE, file.wrapper_timeout_seconds, time.monotonic())
        if step is not None:
            write_atomic(folder / STEP_FILE, f"{step}\n".encode())
    meter = AttemptMeter(file.energy if seat.local_rank == 0 else None, folder)
    child = start_program(module, [spec], environment, folder)
    code = supervise(child, signals, None if pulse is None else pulse.lost, meter.poll)
    meter.close()
    if code is None:
        end_program(child)
        cancel_step(file.cancel, step)
        return int(ExitCode.RETRYABLE)
    return record_failure(folder, code, seat, file.ranks)


def record_failure(folder: Path, code: int, seat: RankAssignment, ranks: int) -> int:
    """Return the exit code for the launcher, and the delay before it."""
    if code in TOGETHER and seat.rank > 0:
        return int(ExitCode.OK)
    if code:
        write_first_failure(folder, code, seat.rank, seat.host)
    if code in TOGETHER and ranks > 1:
        time.sleep(LAST_SECONDS)
    return code


def main(arguments: Sequence[str], folder: Path, environ: Mapping[str, str]) -> int:
    """Run this rank to its end and return its exit code.

    A rank of a group always exits with 0, because the launcher would end all tasks after a failed rank. The folder of
    its task records the actual end.
    """
    signals = Signals()
    try:
        if not arguments and wait_for([folder / GROUP_FILE], START_SECONDS):
            run_member(folder, environ, signals)
            code = int(ExitCode.OK)
        elif len(arguments) == 2:
            code = run_rank(arguments[0], arguments[1], folder, environ, signals)
        else:
            raise ConfigError("A rank takes a module and its JSON spec, or nothing in the folder of a group.")
    except (GFMError, OSError) as error:
        code = refuse(folder, error)
        write_first_failure(folder, code, -1, socket.gethostname())
    signals.ignore()
    return code


if __name__ == "__main__":
    # the launcher tells a rank its number in the environment only
    sys.exit(main(sys.argv[1:], Path.cwd(), os.environ))
