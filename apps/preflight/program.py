"""Observes a rank's resources and records them before it meets the others, so that missing ranks are recorded too."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from gfm_pipeline.apps.energy.node_meter import readable
from gfm_pipeline.apps.preflight.packages import import_packages, mpi_library
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.energy import source_order
from gfm_pipeline.core.contracts.preflight import OBSERVATIONS_FOLDER, PreflightResult, PreflightSpec, RankObservation
from gfm_pipeline.core.contracts.training import Device
from gfm_pipeline.core.publish import write_record

T = TypeVar("T")
NODE_VARIABLES = ("SLURMD_NODENAME",)  # several simulated nodes may share one host name


def preflight(spec: PreflightSpec, task: Task, environ: Mapping[str, str]) -> PreflightResult:
    """Observe the rank, write ``seen/RANK.json``, then sum with the others and compare clocks.

    Parameters
    ----------
    spec
        The requested checks.
    task
        The attempt.
    environ
        Environment variables of this process.

    Raises
    ------
    NodeError
        When the other ranks do not appear.
    """
    observation = observe_rank(spec, environ)
    task.rank = observation.rank
    task.heartbeat()
    folder = task.folder / OBSERVATIONS_FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{observation.rank}.json"
    write_record(path, observation)
    if spec.data is not None and observation.rank in (0, spec.ranks - 1):
        observation = _with_data(spec, observation, Path(spec.data))
        write_record(path, observation)
    if not spec.exchange_megabytes:
        return PreflightResult()
    from gfm_pipeline.apps.preflight.exchange import exchange

    return exchange(spec, task)


def observe_rank(spec: PreflightSpec, environ: Mapping[str, str]) -> RankObservation:
    """Return this rank's resources; the first rank of each node makes more checks."""
    local_rank = int(environ.get("LOCAL_RANK", "0"))
    observation = RankObservation(
        rank=int(environ.get("RANK", "0")),
        local_rank=local_rank,
        node=next((environ[name] for name in NODE_VARIABLES if name in environ), socket.gethostname()),
        mask=environ.get(spec.visible_variable) if spec.visible_variable else None,
        cores=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        python=platform.python_version(),
        executable=sys.executable,
    )
    if local_rank == 0 and spec.packages:
        versions, missing = import_packages(spec.packages)
        energy, trouble = readable(source_order(), dict(spec.counters))
        observation = replace(observation, packages=versions, missing=missing, energy=energy, energy_trouble=trouble)
    if observation.rank == 0 and spec.packages:
        library, why = mpi_library()
        observation = replace(observation, mpi=library, mpi_trouble=why)
    if "torch" in observation.missing or (spec.device is Device.CPU and "torch" not in observation.packages):
        return observation
    from gfm_pipeline.apps.preflight.devices import observe_device

    return observe_device(observation, spec.device)


def _with_data(spec: PreflightSpec, observation: RankObservation, folder: Path) -> RankObservation:
    """Add the test of the file system: rank 0 writes, the last rank reads, usually on another node."""
    from gfm_pipeline.apps.preflight.files import read, wait_for, write

    try:
        if observation.rank == 0:
            observation = replace(observation, written=_speed(spec, lambda: write(folder, spec.data_megabytes)))
        if observation.rank == spec.ranks - 1:
            wait_for(folder, spec.timeout)
            observation = replace(observation, read=_speed(spec, lambda: read(folder, spec.data_megabytes)))
    except Exception as error:  # noqa: BLE001 - whatever stands between ADIOS2 and the disk is the finding
        lines = str(error).splitlines() or [type(error).__name__]
        return replace(observation, data_trouble=f"{type(error).__name__}: {lines[0]}")
    return observation


def _speed(spec: PreflightSpec, work: Callable[[], T]) -> float:
    """Return the speed of reading or writing the file once, MB/s."""
    began = time.perf_counter()
    work()
    return spec.data_megabytes / max(1e-9, time.perf_counter() - began)
