"""Batch scripts: the job a campaign's driver lives in, and blocks of nodes for a driver that lives elsewhere.

Pure text from a site file and a `BatchJob`. Nothing of the writer's environment gets in, and every value
is quoted; what the site file means as shell text (its prologue, its activation, its directives) stays as it stands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from gfm_pipeline.batch_systems.base import BatchSystem, JobRequest
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.sites.enums import Staging
from gfm_pipeline.sites.schema import SiteModel

PLAIN = re.compile(r"[A-Za-z0-9_./+=@-]+")  # paths that every batch system takes as they stand


@dataclass(frozen=True)
class BatchJob:
    """A job, as submitted to the batch system.

    Parameters
    ----------
    name
        Unique to the campaign; a later search for the job looks for this.
    nodes, hours
        How many nodes, and for how long.
    queue
        By its name in the site file.
    account
        The project that is charged; None where none is needed.
    folder
        Where the job runs; absolute.
    output
        File for what it says; absolute.
    programs
        Folder of ``gfm-pipeline`` and its interpreter, on the shared file system; None: the profile activates one.
    after
        Number of a job that must have ended, well or badly, before this one begins.
    """

    name: str
    nodes: int
    hours: float
    queue: str
    account: str | None
    folder: str
    output: str
    programs: str | None = None
    after: str | None = None


def resident_script(site: SiteModel, job: BatchJob, command: Sequence[str]) -> str:
    """Return the script of a job that drives a campaign on its own nodes.

    The shell becomes the driver (``exec``), so that the warning before the wall time reaches the driver itself.

    Raises
    ------
    ConfigError
        When the site has no batch system, or a value cannot stand in a script.
    """
    warning = (site.driver.warning_signal, site.driver.warning_seconds)
    parts = [*_head(site, job, warning), *_environment(site, job), "", f"exec {shlex.join(command)}"]
    return "\n".join(parts) + "\n"


def block_script(site: SiteModel, job: BatchJob, pools: Sequence[str], node_file: str) -> str:
    """Return the script of a block: worker pools for a driver elsewhere, until the last of them ends.

    Parameters
    ----------
    site, job
        The machine and the job.
    pools
        Command lines of the pools, as shell text.
    node_file
        File that gets the names of the job's nodes, one per line, before the pools start.

    Raises
    ------
    ConfigError
        As `resident_script`.
    """
    parts = [*_head(site, job, None), *_environment(site, job), "", _write_nodes(site, node_file)]
    parts += [f"{pool} &" for pool in pools]
    return "\n".join([*parts, "wait"]) + "\n"


def _head(site: SiteModel, job: BatchJob, warning: tuple[str, int] | None) -> list[str]:
    system = _system(site)
    queue, scheduler = site.scheduler.queues[job.queue], site.scheduler
    request = JobRequest(
        name=job.name,
        nodes=job.nodes,
        hours=job.hours,
        partition=queue.partition,
        qos=queue.qos,
        account=job.account,
        constraint=scheduler.constraint,
        select=scheduler.select,
        output=_directed(job),
        after=job.after,
        warning=warning,
        directives=tuple(scheduler.directives),
    )
    # The site may say again what every job gets.
    directives = dict.fromkeys(system.directives(request))
    return ["#!/bin/bash", *(f"{system.mark} {_one_line(directive)}" for directive in directives)]


def _system(site: SiteModel) -> type[BatchSystem]:
    if site.scheduler.system is None:
        raise ConfigError(f"Site {site.name} has no batch system to write a script for.")
    return site.scheduler.system


def _directed(job: BatchJob) -> str:
    """Return the file that the batch system itself is told to write to.

    Each reads quotes, ``%``, backslashes, commas and colons of that path in its own way, Slurm's differs by version. A
    path with any of them is therefore left to the shell, which knows one way to quote; only what the batch system
    itself says of the job is lost then.
    """
    return job.output if PLAIN.fullmatch(job.output) else "/dev/null"


def _one_line(text: str) -> str:
    """Return a directive, or refuse one that would end its line and begin another."""
    if not text.isprintable():
        raise ConfigError(f"{text!r} cannot stand in a batch script: it holds a control character.")
    return text


def _environment(site: SiteModel, job: BatchJob) -> list[str]:
    """Return what happens before Python starts: modules, prologue, exports, staging, activation."""
    profile = site.profiles[site.profile]
    lines = [""]
    if _directed(job) != job.output:
        lines.append(f"exec >>{shlex.quote(job.output)} 2>&1")
    lines.append(f"cd {shlex.quote(job.folder)} || exit 1")
    if profile.modules:
        lines.append("type module >/dev/null 2>&1 || . /etc/profile")
        lines += [_checked(f"module load {shlex.quote(m)}", f"module {m} cannot be loaded") for m in profile.modules]
    lines += [*profile.prologue]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in _exports(site).items()]
    lines.append("export TMPDIR=/tmp")  # sockets have paths of at most 108 bytes
    if site.staging.kind is Staging.SBCAST:
        lines += _staged(site, job)
    elif profile.activate is not None:
        lines.append(_checked(profile.activate, "the Python environment cannot be activated"))
    elif job.programs is not None:
        lines.append(f'export PATH={shlex.quote(job.programs)}:"$PATH"')
    return lines


def _exports(site: SiteModel) -> dict[str, str]:
    for name in (exports := site.profiles[site.profile].exports):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"Site {site.name}: {name!r} in profile {site.profile} is not a name of a variable.")
    return exports


def _checked(command: str, what: str) -> str:
    """Return a command after whose failure the job ends, saying ``what``."""
    return f"{command} || {{ echo {shlex.quote(f'gfm-pipeline: {what}')} >&2; exit 2; }}"


def _staged(site: SiteModel, job: BatchJob) -> list[str]:
    """Return the lines that bring the Python environment to every node; a copy that fails leaves nothing behind."""
    staging = site.staging
    folder, archive = expanded(f"{staging.folder}/gfm-env"), expanded(staging.archive or "")
    each = shlex.join(
        [
            "srun",
            f"--nodes={job.nodes}",
            f"--ntasks={job.nodes}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={max(1, site.node.usable_threads)}",
            "--kill-on-bad-exit=1",
        ]
    )
    suffix = "".join(PurePosixPath(staging.archive or "").suffixes[-2:]) or ".tar.gz"
    return [
        f"env_folder={folder}",
        f'env_archive="$env_folder"{shlex.quote(suffix)}',
        "unstage() {",
        f'  {each} rm -rf "$env_archive" "$env_folder"',
        f"  echo {shlex.quote('gfm-pipeline: the Python environment did not reach every node')} >&2",
        "  exit 2",
        "}",
        f'sbcast -pf {archive} "$env_archive" || unstage',
        f'{each} mkdir -p "$env_folder" || unstage',
        f'{each} {staging.unpack} "$env_archive" -C "$env_folder" || unstage',
        f'{each} rm -f "$env_archive" || unstage',
        '. "$env_folder/bin/activate" || unstage',
        f"{each} conda-unpack || unstage",
    ]


def expanded(text: str) -> str:
    """Return a path as a shell word in which ``$NAME`` and ``${NAME}`` stand for variables, and nothing else does."""
    parts = re.split(r"(\$\{[A-Za-z_]\w*\}|\$[A-Za-z_]\w*)", text)
    quoted = [f'"{part}"' if k % 2 else shlex.quote(part) if part else "" for k, part in enumerate(parts)]
    return "".join(quoted) or "''"


def _write_nodes(site: SiteModel, node_file: str) -> str:
    """Return the line that writes the names of the job's nodes, one per line, each once."""
    return _checked(
        f"{_system(site).node_names} > {shlex.quote(node_file)}", "the names of the nodes cannot be written"
    )
