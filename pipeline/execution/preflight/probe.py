"""The job of a check, on its first node: three launches, each started like a task."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.apps.runtime.launcher_probe import LauncherProbeSpec
from gfm_pipeline.apps.runtime.wrapper import run
from gfm_pipeline.core.contracts.preflight import PreflightSpec
from gfm_pipeline.core.contracts.task import SPEC_FILE
from gfm_pipeline.core.contracts.training import Device
from gfm_pipeline.core.publish import write_atomic, write_record
from gfm_pipeline.execution.preflight.observations import (
    DONE_FILE,
    HEAD_FILE,
    PING_FILE,
    PONG_FILE,
    RANKS,
    SPAWN,
    STEP_NOW,
    VIEW,
    HeadNodeObservation,
    Pong,
)
from gfm_pipeline.execution.prepare import TimeLimits, prepare
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy, launch_line, task_environment
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import TaskShape, default_shape

PROGRAM = "preflight"
PACKAGES = ("gfm_pipeline", "torch", "adios2", "parsl")
SECONDS = {VIEW: 120.0, RANKS: 300.0, SPAWN: 180.0}
PING_SECONDS = 20.0  # wait for the login node's query of the time
EXCHANGED = {Device.CPU: (1.0, 8.0), Device.CUDA: (1.0, 64.0), Device.XPU: (1.0, 64.0)}  # MB


def step_shape(site: SiteModel, nodes: int) -> TaskShape:
    """Return the shape of the launch over all nodes: full nodes, or one process without a batch system."""
    return default_shape(site, 0 if site.scheduler.system is None else nodes)


def probe(site: SiteModel, nodes: Sequence[str], folder: Path, answer_login: Callable[[], None] | None = None) -> None:
    """Observe the machine, and write the observations to ``folder``.

    Parameters
    ----------
    site
        The machine.
    nodes
        Names of the job's nodes; empty without a batch system.
    folder
        Folder of the check.
    answer_login
        Called when the job runs, to compare clocks.
    """
    interfaces = tuple(name for _, name in socket.if_nameindex())
    write_record(
        folder / HEAD_FILE, HeadNodeObservation(tuple(nodes), socket.gethostname(), sys.executable, interfaces)
    )
    if answer_login is not None:
        answer_login()
    if nodes:
        _start(folder, VIEW, _launcher_probe(site, nodes, folder / VIEW))
    _start(folder, RANKS, _ranks(site, nodes, folder / RANKS))
    if nodes:
        _start(folder, SPAWN, _spawned(site, folder / SPAWN))
    write_atomic(folder / DONE_FILE, b"")


def answer(folder: Path) -> None:
    """Send the time to the login node when it asks; continue if it does not ask."""
    until = time.monotonic() + PING_SECONDS
    while time.monotonic() < until:
        if (folder / PING_FILE).exists():
            write_record(folder / PONG_FILE, Pong(time.time()))
            return
        time.sleep(0.05)


def _start(folder: Path, name: str, launch: Launch) -> None:
    write_atomic(folder / STEP_NOW, name.encode())
    run(launch)


def _launcher_probe(site: SiteModel, nodes: Sequence[str], folder: Path) -> Launch:
    """Return the site's launch line without our wrapper around the ranks."""
    folder.mkdir()
    spec = LauncherProbeSpec(site.launch.rank_variable, site.launch.local_rank_variable, site.gpu.visible_variable)
    write_record(folder / SPEC_FILE, spec)
    return Launch(
        "gfm_pipeline.apps.runtime.launcher_probe",
        str(folder),
        SECONDS[VIEW],
        task_environment(site, len(nodes)),
        heartbeat_timeout_seconds=SECONDS[VIEW],
        line=tuple(launch_line(site, step_shape(site, len(nodes)), nodes)),
    )


def _ranks(site: SiteModel, nodes: Sequence[str], folder: Path) -> Launch:
    folder.mkdir()
    device = Device(site.gpu.device)
    shape = step_shape(site, len(nodes))
    spec = PreflightSpec(
        shape.ranks,
        device,
        site.gpu.visible_variable,
        PACKAGES,
        data=str(folder),
        exchange_megabytes=EXCHANGED[device],
        counters=site.energy.folders,
    )
    strategy = LaunchStrategy.STEP if nodes else LaunchStrategy.SPAWN
    return _prepared(site, SizeClass(shape, strategy), nodes, folder, spec, SECONDS[RANKS])


def _spawned(site: SiteModel, folder: Path) -> Launch:
    folder.mkdir()
    shape = default_shape(site, 1)
    spec = PreflightSpec(shape.ranks, Device(site.gpu.device), site.gpu.visible_variable)
    return _prepared(site, SizeClass(shape, LaunchStrategy.SPAWN), (), folder, spec, SECONDS[SPAWN])


def _prepared(
    site: SiteModel, size: SizeClass, nodes: Sequence[str], folder: Path, spec: PreflightSpec, seconds: float
) -> Launch:
    """Return a launch for the task wrapper, prepared like that of a training."""
    write_record(folder / SPEC_FILE, spec)
    bounds = TimeLimits(deadline=seconds, heartbeat_timeout=seconds, grace=10.0, wrapper_timeout=60.0)
    job = prepare(
        site, "preflight", site.programs.get(PROGRAM, f"gfm_pipeline.apps.{PROGRAM}"), size, nodes, folder, bounds
    )
    if job.ranks:
        job.ranks[0].write(folder)
    return job.launch
