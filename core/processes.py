"""Identity of a process beyond its number: boot, namespace and start time, so a reused pid is not confused."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
RUN = ("sh", "-c", 'exec "$@"', "sh")  # stands between `env` and a program with "=" in its path, else a variable


@dataclass(frozen=True)
class ProcessId:
    """A process.

    ``started`` is its start time in clock ticks since boot; '' when not known. ``namespace`` is the namespace of its
    number, since a container counts its own processes; '' in records of earlier versions.
    """

    host: str
    boot_id: str
    pid: int
    started: str
    namespace: str = ""


def boot_id() -> str:
    """Return the id of this boot of this machine, '' where the system has none."""
    path = _PROC / "sys/kernel/random/boot_id"
    return path.read_text().strip() if path.exists() else ""


def pid_namespace() -> str:
    """Return the process namespace of this process, '' where the system has none."""
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on, or nothing when there is no such process."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def started(pid: int) -> str:
    """Return when ``pid`` started, in clock ticks since boot; '' when there is no such process, or only a zombie."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def is_stopped(pid: int) -> bool:
    """Return whether ``pid`` exists and is stopped, as after SIGSTOP."""
    fields = _stat(pid)
    return bool(fields) and fields[0] in "Tt"


def identify(pid: int) -> ProcessId:
    """Return the full identity of a process of this machine."""
    return ProcessId(socket.gethostname(), boot_id(), pid, started(pid), pid_namespace())


def is_here(process: ProcessId) -> bool:
    """Return whether ``process`` belongs to this boot of this machine, under any host name, and is visible here."""
    if process.boot_id != boot_id():
        return False
    if process.boot_id and process.namespace:
        return process.namespace == pid_namespace()
    return process.host == socket.gethostname()


def is_alive(process: ProcessId) -> bool:
    """Return whether ``process`` runs on this machine; False for processes of other hosts, which are invisible."""
    return is_here(process) and bool(process.started) and started(process.pid) == process.started


def group_members(group: int) -> list[int]:
    """Return the processes of a process group that are not dead yet."""
    found = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else []:
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[2] == str(group) and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def kill(process: ProcessId) -> bool:
    """Kill one process if it is still the same; return whether it existed."""
    return is_alive(process) and _send(process.pid, group=False)


def kill_group(leader: ProcessId) -> bool:
    """Kill the rest of the process group of ``leader``; return whether any process was left.

    The leader may die before its children. Its number stays taken as long as the group has members. So a group with a
    different leader belongs to a stranger and is left alone.
    """
    if not is_here(leader):
        return False
    now = started(leader.pid)
    if (now and now != leader.started) or not group_members(leader.pid):
        return False
    return _send(leader.pid, group=True)


def _send(pid: int, *, group: bool) -> bool:
    try:
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True
