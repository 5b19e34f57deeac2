"""Assignment of one rank: its number, one GPU, its cores, and its program.

`gfm_pipeline.apps.runtime.rank` (one process per rank, started by srun or mpiexec) and
`gfm_pipeline.apps.runtime.spawn` (all ranks of one node) differ in their starter; this module holds their common part.
It does not change the environment of this process: each program gets its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.core.contracts.attempts.launch import RankFile
from gfm_pipeline.core.contracts.attempts.records import ERROR_FILE, ErrorRecord, ExitCode
from gfm_pipeline.core.errors import ConfigError, GFMError
from gfm_pipeline.core.interpreter import module_command
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.sites.cores import format_cores, parse_cores


@dataclass(frozen=True)
class RankAssignment:
    """The place of a rank.

    Parameters
    ----------
    rank
        Its number in the task.
    local_rank
        Its number among the ranks of its launch on its node; it determines its GPU and its cores.
    host
        The node's name, for messages.
    """

    rank: int
    local_rank: int
    host: str


def visible_gpu(file: RankFile, seat: RankAssignment, visible: str | None) -> str | None:
    """Return the value of the masking variable for one rank; None: the task has no GPUs.

    Parameters
    ----------
    file
        The site's resources for each rank.
    seat
        Which rank.
    visible
        Current value of the variable: a list of GPUs; None means all GPUs.

    Raises
    ------
    ConfigError
        When the rank sees exactly one GPU other than the site's, or several without the site's. Continuing would be
        worse: two ranks on one GPU, or a rank far from its GPU, run at half speed unnoticed.
    """
    if file.visible_variable is None or not file.rank_gpus:
        return None
    if seat.local_rank >= len(file.rank_gpus):
        raise ConfigError(
            f"Rank {seat.rank} on {seat.host} is number {seat.local_rank} there, "
            f"and the site has GPUs for {len(file.rank_gpus)} ranks per node."
        )
    expected = str(file.rank_gpus[seat.local_rank])
    entries = [entry.strip() for entry in (visible or "").split(",") if entry.strip()]
    if entries and expected not in entries:
        raise ConfigError(
            f"Rank {seat.rank} on {seat.host} sees GPU {','.join(entries)} ({file.visible_variable}), "
            f"the site gives it GPU {expected}.",
            "Correct node.rank_gpus of the site, or how launch.template binds GPUs.",
        )
    return expected


def rank_environment(
    base: Mapping[str, str], file: RankFile, seat: RankAssignment, port: int | None = None
) -> dict[str, str]:
    """Return the environment of one rank's program, from that of its starter.

    Parameters
    ----------
    base
        Environment of the starter.
    file
        Variables to remove, set and mask.
    seat
        Which rank.
    port
        Port where the ranks meet, if different from that in ``file``.

    Raises
    ------
    ConfigError
        When the rank does not see the site's GPU for it, or the rank does not exist.
    """
    if not 0 <= seat.rank < file.ranks:
        raise ConfigError(f"There is a rank {seat.rank} on {seat.host}, and the task has {file.ranks} ranks.")
    environment = {name: value for name, value in base.items() if name not in file.unset}
    environment.update(file.exports)
    gpu = visible_gpu(file, seat, base.get(file.visible_variable) if file.visible_variable else None)
    if gpu is not None and file.visible_variable is not None:
        environment[file.visible_variable] = gpu
    environment.update(
        RANK=str(seat.rank),
        WORLD_SIZE=str(file.ranks),
        LOCAL_RANK=str(seat.local_rank),
        MASTER_ADDR=file.master_address,
        MASTER_PORT=str(file.master_port if port is None else port),
    )
    return environment


def bind_cores(file: RankFile, seat: RankAssignment) -> None:
    """Bind this process and its future children to the cores of one rank, unless the launcher binds.

    Raises
    ------
    ConfigError
        When the system does not allow all of these cores.
    """
    if not (file.bind and file.rank_cores and hasattr(os, "sched_setaffinity")):
        return
    if seat.local_rank >= len(file.rank_cores):
        raise ConfigError(
            f"Rank {seat.rank} on {seat.host} is number {seat.local_rank} there, "
            f"and the site has cores for {len(file.rank_cores)} ranks per node."
        )
    expected = set(parse_cores(file.rank_cores[seat.local_rank]))
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, expected)
    except OSError:  # no such core is allowed
        had = before
    else:
        had = os.sched_getaffinity(0)
    if had != expected:
        raise ConfigError(
            f"Rank {seat.rank} on {seat.host} may use cores {format_cores(had)}, "
            f"the site gives it {format_cores(expected)}.",
            "Correct node.gpu_cores of the site, or the number of cores its launch lines ask for.",
        )


def start_program(
    module: str, arguments: list[str], environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    """Start ``python -m module arguments`` in ``folder``; if the system supports it, it dies with this process."""
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*guard, *module_command(module, *arguments)],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
    )


def assignment_of(file: RankFile, environ: Mapping[str, str]) -> RankAssignment:
    """Return the place of this process according to the launcher.

    Raises
    ------
    ConfigError
        When the launcher's variables differ from the site's description.
    """
    host = socket.gethostname()
    numbers = []
    for name in (file.rank_variable, file.local_rank_variable):
        text = environ.get(name, "")
        if not text.isdecimal():
            raise ConfigError(
                f"A rank on {host} finds {text!r} in {name}, where its number should be.",
                "Correct launch.rank_variable and launch.local_rank_variable of the site.",
            )
        numbers.append(int(text))
    return RankAssignment(numbers[0], numbers[1], host)


def refuse(folder: Path, error: GFMError | OSError) -> int:
    """Write an error of a starter of ranks to ``error.json`` and standard error, and return the exit code.

    The error of the first rank stays; later ones are usually the same.
    """
    known = isinstance(error, GFMError)
    message = error.message if isinstance(error, GFMError) else f"{type(error).__name__}: {error}"
    sys.stderr.write(f"{message}\n")
    record = ErrorRecord(type(error).__name__, message, error.hint if isinstance(error, GFMError) else None)
    try:
        if not (folder / ERROR_FILE).exists():
            write_record(folder / ERROR_FILE, record)
    except (GFMError, OSError):
        pass  # the disk refuses: standard error has the message
    return int(ExitCode.PERMANENT if known else ExitCode.RETRYABLE)


def step_of(environ: Mapping[str, str]) -> str | None:
    """Return the batch system's number of this process's step, or None."""
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID")
    return f"{job}.{step}" if job and step else None
