"""Commands that stand in for those of Slurm and PBS: they keep jobs in a folder, and misbehave as planned.

The folder holds ``jobs`` (a file per job: its name) and, for a command that is to misbehave, ``COMMAND.plan``: one
behaviour a line, used up from the top. ``late`` does its work and then hangs, ``hang`` only hangs, ``lost WORDS`` does
its work and fails with these words, ``fail WORDS`` only fails, ``say WORDS`` prints these words and succeeds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PBS_STATES = {"PENDING": "Q", "RUNNING": "R", "COMPLETED": "F", "CANCELLED": "F"}


def install(folder: Path, *commands: str) -> dict[str, str]:
    """Write the commands into ``folder``/bin; return an environment in which they are found."""
    (folder / "jobs").mkdir(parents=True)
    (folder / "bin").mkdir()
    for command in commands:
        path = folder / "bin" / command
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {folder} {command} "$@"\n')
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:/usr/bin:/bin"}


def plan(folder: Path, command: str, *behaviours: str) -> None:
    """Let the next calls of a command misbehave."""
    (folder / f"{command}.plan").write_text("".join(f"{b}\n" for b in behaviours))


def calls(folder: Path) -> list[str]:
    """Return the commands that were called, with their arguments."""
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def submitted(folder: Path) -> dict[str, str]:
    """Return the state of every job that was ever taken, by id."""
    return {p.name: json.loads(p.read_text())["state"] for p in sorted((folder / "jobs").iterdir())}


def set_state(folder: Path, job: str, state: str, **more: object) -> None:
    """Change a job; the state ``GONE`` makes it vanish."""
    path = folder / "jobs" / job
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": state, **more}))


def insist(submit: Callable[[], str], most: int = 8) -> str:
    """Submit as the driver does: after trouble, the same again."""
    from gfm_pipeline.batch_systems.commands import SchedulerTrouble  # the commands start without site-packages

    for _ in range(most):
        with suppress(SchedulerTrouble):
            return submit()
    raise AssertionError("never submitted")


def _next_behaviour(folder: Path, command: str) -> str:
    path = folder / f"{command}.plan"
    lines = path.read_text().splitlines() if path.exists() else []
    path.write_text("".join(f"{line}\n" for line in lines[1:]))
    return lines[0] if lines else ""


def _jobs(folder: Path) -> list[dict[str, object]]:
    found = [{"id": p.name, **json.loads(p.read_text())} for p in sorted((folder / "jobs").iterdir())]
    return [job for job in found if job["state"] != "GONE"]


def _option(arguments: list[str], name: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
        if argument == name:
            return arguments[i + 1]
    return None


def _act(folder: Path, command: str, arguments: list[str]) -> str:
    """Do what the command is for; return what it prints."""
    jobs = _jobs(folder)
    match command:
        case "sbatch" | "qsub":
            number = str(1000 + len(list((folder / "jobs").iterdir()))) + (".pbs01" if command == "qsub" else "")
            name = _option(arguments, "--job-name") or _option(arguments, "-N")
            leaked = sorted(k for k in os.environ if k.startswith(("SLURM_", "SBATCH_", "PBS_")))
            record = {"name": name, "state": "PENDING", "nodes": "", "leaked": leaked}
            (folder / "jobs" / number).write_text(json.dumps(record))
            return number
        case "squeue":
            layout = _option(arguments, "--format") or ""
            fields = {"%A": "id", "%T": "state", "%N": "nodes", "%j": "name"}
            lines = [layout.replace("%L", "10:00").replace("%r", "None") for _ in jobs]
            for field, key in fields.items():
                lines = [line.replace(field, str(job[key])) for line, job in zip(lines, jobs, strict=True)]
            return "\n".join(lines)
        case "sacct":
            every = [{"id": p.name, **json.loads(p.read_text())} for p in sorted((folder / "jobs").iterdir())]
            names, ids = _option(arguments, "--name"), _option(arguments, "--jobs")
            asked = [j for j in every if j["name"] in (names or "").split(",") or j["id"] in (ids or "").split(",")]
            return "\n".join(f"{j['id']}|{j.get('ended', j['state'])}|{j['nodes']}|{j['name']}" for j in asked)
        case "scancel" | "qdel":
            name = _option(arguments, "--name")
            for job in jobs:
                if job["id"] in arguments or (name is not None and job["name"] == name):
                    set_state(folder, str(job["id"]), "CANCELLED")
            return ""
        case "scontrol":
            return "\n".join(arguments[-1].split(","))
        case "sinfo":
            mark = (_option(arguments, "--format") or "").partition("%")[0]
            return "".join(f"{mark}{line}\n" for line in (folder / "nodes").read_text().splitlines())
        case "pbsnodes":
            return (folder / "nodes").read_text()
        case "qselect":
            name = _option(arguments, "-N")
            return "\n".join(str(j["id"]) for j in jobs if name in (None, j["name"]))
        case "qstat":
            told = {
                j["id"]: {"Job_Name": j["name"], "job_state": PBS_STATES[str(j["state"])], **j.get("facts", {})}
                for j in jobs
                if j["id"] in arguments
            }
            return json.dumps({"Jobs": told})
    raise AssertionError(command)


def _main(folder: Path, command: str, arguments: list[str]) -> int:
    with open(folder / "calls", "a") as file:
        file.write(f"{command} {' '.join(arguments)}\n")
    kind, _, words = _next_behaviour(folder, command).partition(" ")
    out = _act(folder, command, arguments) if kind in ("", "late", "lost") else ""
    if kind in ("late", "hang"):
        time.sleep(60)
    if kind in ("lost", "fail"):
        sys.stderr.write(f"{command}: error: {words}\n")
        return 1
    sys.stdout.write(f"{words if kind == 'say' else out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
