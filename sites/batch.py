"""Batch scripts: jobs that run a campaign's driver, and blocks of nodes for a driver that runs elsewhere.

The text depends on the site file and a `BatchJob` only, not on the environment of the writer. Every value is quoted.
Shell text of the site file (its prologue, its activation, its directives) stays unchanged.
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

UNANSWERED_PAUSES = (5, 10, 20, 40, 80, 160)  # seconds before a pool's launch is repeated: a slow slurmctld recovers
PLAIN = re.compile(r"[A-Za-z0-9_./+=@-]+")  # paths that every batch system accepts unchanged


@dataclass(frozen=True)
class BatchJob:
    """A job, as submitted to the batch system.

    Parameters
    ----------
    name
        Unique to the campaign; later searches for the job use it.
    nodes, hours
        Number of nodes, and wall time.
    queue
        Its name in the site file.
    account
        The charged project; None when none is needed.
    folder
        Working folder of the job; absolute.
    output
        File for its output; absolute.
    programs
        Folder of ``gfm-pipeline`` and its interpreter, on the shared file system; None: the profile activates one.
    after
        Number of a job that must end, with success or failure, before this one begins.
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
    """Return the script of a job that runs a campaign's driver on its own nodes.

    The shell becomes the driver (``exec``), so that the warning before the wall time reaches the driver itself.

    Raises
    ------
    ConfigError
        When the site has no batch system, or a value cannot be part of a script.
    """
    warning = (site.driver.warning_signal, site.driver.warning_seconds)
    parts = [*_head(site, job, warning), *_environment(site, job), "", f"exec {shlex.join(command)}"]
    return "\n".join(parts) + "\n"


def block_script(site: SiteModel, job: BatchJob, pools: Sequence[str], node_file: str) -> str:
    """Return the script of a block: worker pools for a driver elsewhere; it runs until the last pool ends.

    A pool that fails ends the job: nodes with only some of their pools would be held until the wall time, without use.
    A launch that the batch system did not answer is repeated first.

    Parameters
    ----------
    site, job
        The machine and the job.
    pools
        Command lines of the pools, as shell text.
    node_file
        File for the names of the job's nodes, one per line, written before the pools start.

    Raises
    ------
    ConfigError
        As `resident_script`.
    """
    parts = [*_head(site, job, None), *_environment(site, job), "", _write_nodes(site, node_file)]
    parts += _launch(site, job)
    parts += [f"launch {pool} &" for pool in pools]
    return "\n".join([*parts, "wait"]) + "\n"


def _launch(site: SiteModel, job: BatchJob) -> list[str]:
    """Return the lines that define ``launch``, the command that starts a pool in the background."""
    output = shlex.quote(job.output)
    end = f"echo {shlex.quote('gfm-pipeline: a worker pool failed, so the job ends')} >&2"
    lines = ["trap 'exit 1' USR1", "launch() {"]
    if silent := _system(site).unanswered:
        lines += [
            f"  for pause in {' '.join(str(s) for s in UNANSWERED_PAUSES)}; do",
            f"    local from=$(wc -c < {output})",
            '    "$@" && return',
            f"    tail -c +$((from + 1)) {output} | grep -Eq {shlex.quote(silent)} || break",
            '    sleep "$pause"',
            "  done",
        ]
    else:
        lines += ['  "$@" && return']
    return [*lines, f"  {end}", "  kill -USR1 $$", "}"]


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
    # The site may repeat directives that every job has.
    directives = dict.fromkeys(system.directives(request))
    return ["#!/bin/bash", *(f"{system.mark} {_one_line(directive)}" for directive in directives)]


def _system(site: SiteModel) -> type[BatchSystem]:
    if site.scheduler.system is None:
        raise ConfigError(f"Site {site.name} has no batch system to write a script for.")
    return site.scheduler.system


def _directed(job: BatchJob) -> str:
    """Return the output file for the batch system itself.

    Batch systems interpret quotes, ``%``, backslashes, commas and colons of that path differently; Slurm differs by
    version. So the shell, which has one way to quote, opens a path with any of these characters. Only the batch
    system's own messages about the job are lost then.
    """
    return job.output if PLAIN.fullmatch(job.output) else "/dev/null"


def _one_line(text: str) -> str:
    """Return a directive; refuse a directive with a line break."""
    if not text.isprintable():
        raise ConfigError(f"{text!r} cannot stand in a batch script: it holds a control character.")
    return text


def _environment(site: SiteModel, job: BatchJob) -> list[str]:
    """Return the lines before the start of Python: modules, prologue, exports, staging, activation."""
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
    lines.append("export TMPDIR=/tmp")  # paths of sockets have at most 108 bytes
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
    """Return a command whose failure ends the job with the message ``what``."""
    return f"{command} || {{ echo {shlex.quote(f'gfm-pipeline: {what}')} >&2; exit 2; }}"


def _staged(site: SiteModel, job: BatchJob) -> list[str]:
    """Return the lines that copy the Python environment to every node; a failed copy leaves nothing behind."""
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
    """Return a path as a shell word that expands ``$NAME`` and ``${NAME}`` only."""
    parts = re.split(r"(\$\{[A-Za-z_]\w*\}|\$[A-Za-z_]\w*)", text)
    quoted = [f'"{part}"' if k % 2 else shlex.quote(part) if part else "" for k, part in enumerate(parts)]
    return "".join(quoted) or "''"


def _write_nodes(site: SiteModel, node_file: str) -> str:
    """Return the line that writes the names of the job's nodes, one per line, each once."""
    return _checked(
        f"{_system(site).node_names} > {shlex.quote(node_file)}", "the names of the nodes cannot be written"
    )
