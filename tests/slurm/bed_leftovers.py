"""What a Slurm test bed leaves outside its folder, processes and lines of /etc/hosts, and how it goes away."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

HOSTS = Path("/etc/hosts")
HOSTS_MARK = "# slurm test bed"
HELD = "held"  # locked by the process that holds the test bed


def processes_of(places: Sequence[Path], **variables: str) -> list[psutil.Process]:
    """Return the processes that work for a test bed or a node of it, and all they started.

    Those are the processes that stand in one of ``places`` or below, name one in their command, have a file there
    open, or were started with all of ``variables``. slurmstepd writes its title over its environment and, while it
    starts a program, stands in the folder of the job, but it has its log open; what it has forked and is about to
    become that program shows nothing of its own, so descendants count as well.
    """
    parents = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid in parents:
            continue
        with suppress(psutil.Error):
            if works_for(process, places, variables):
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
    return [process for pid, process in found.items() if pid not in parents]


def works_for(process: psutil.Process, places: Sequence[Path], variables: Mapping[str, str]) -> bool:
    """Return whether a process itself shows that it works for ``places`` or was started with ``variables``."""
    environment = process.environ()
    if variables and all(environment.get(name) == value for name, value in variables.items()):
        return True
    if any(f"{place}/" in word for word in process.cmdline() for place in places):
        return True
    paths = [Path(process.cwd()), *(Path(file.path) for file in process.open_files())]
    return any(path.is_relative_to(place) for path in paths for place in places)


def kill_all(places: Sequence[Path], **variables: str) -> None:
    """Kill the processes that work for ``places`` (see `processes_of`), and return when they are gone.

    They are stopped first, until a look finds none that still runs: a process that forks between the look and its end
    would leave a child that nobody has seen.
    """
    stopped: dict[int, psutil.Process] = {}
    while new := [p for p in processes_of(places, **variables) if p.pid not in stopped]:
        for process in new:
            stopped[process.pid] = process
            with suppress(psutil.NoSuchProcess):
                process.suspend()
    for process in stopped.values():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(stopped.values()), timeout=10)


def clean(folder: Path) -> None:
    """End the processes that work for the test bed in ``folder``, and remove it."""
    kill_all([folder], SLURM_CONF=str(folder / "slurm.conf"))
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def hosts_locked() -> Iterator[list[str]]:
    """Hold /etc/hosts against other test beds; the lines yielded are written back."""
    with open(HOSTS, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read()
        lines = before.splitlines()
        yield lines
        after = "".join(f"{line}\n" for line in lines)
        if after != before:
            file.seek(0)
            file.write(after)
            file.truncate()


def folder_of(line: str) -> Path | None:
    """Return the folder of the test bed that wrote this line of /etc/hosts; None for any other line."""
    return Path(line.split()[-1]) if HOSTS_MARK in line else None


def is_dead(folder: Path) -> bool:
    """Return whether the process that held the test bed in ``folder`` is gone."""
    try:
        with open(folder / HELD) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def remember_hosts(folder: Path, nodes: Sequence[str]) -> None:
    """Let the names of nodes resolve, and clean up after test beds that were killed."""
    with hosts_locked() as lines:
        for dead in [other for line in lines if (other := folder_of(line)) and is_dead(other)]:
            clean(dead)
            lines[:] = [line for line in lines if folder_of(line) != dead]
        lines.append(f"127.0.0.1 {' '.join(nodes)} {HOSTS_MARK} {folder}")
