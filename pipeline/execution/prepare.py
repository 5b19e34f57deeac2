"""Converts a task and its placement to the launch of its wrapper; pure, except for the files that ranks read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.core.contracts.attempts.launch import GroupFile, GroupMember
from gfm_pipeline.core.contracts.attempts.records import SPEC_FILE, WRAP_FILE
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.execution.energy_plan import energy_plan
from gfm_pipeline.execution.launcher import TaskLaunch
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import (
    group_ranges,
    group_rank_files,
    group_shape,
    launch_line,
    rank_file,
    step_cancel,
    task_environment,
    unanswered,
)
from gfm_pipeline.sites.schema import SiteModel

RANK_SHIM = "gfm_pipeline.apps.runtime.rank"
SPAWN_SHIM = "gfm_pipeline.apps.runtime.spawn"


@dataclass(frozen=True)
class TimeLimits:
    """Time limits of an attempt (s): deadline, silence of the program, grace after SIGTERM, loss of the wrapper.

    ``visible`` limits the wait for files of other hosts.
    """

    deadline: float
    heartbeat_timeout: float
    grace: float
    wrapper_timeout: float
    visible: float = 0.0


EXTRA_SECONDS = 60.0  # of a shared launch, beyond its tasks' deadline and grace, after which they end


def prepare(
    site: SiteModel,
    stage: str,
    module: str,
    size: SizeClass,
    nodes: Sequence[str],
    folder: Path,
    bounds: TimeLimits,
    expects: Sequence[Path] = (),
    account: str = "",
) -> TaskLaunch:
    """Return the job of an attempt; write the rank file of a task of whole nodes to ``folder``.

    ``expects`` are files of other tasks that the program reads; ``account`` names the energy accounts of its nodes.
    """
    shape = size.shape
    launch = _launch(site, module, size, folder, bounds, expects, account)
    port = _port(site, folder)
    if size.whole:
        ranks = rank_file(site, shape, nodes, port, wrapper_timeout_seconds=bounds.wrapper_timeout)
        ranks = replace(ranks, expects=launch.expects, visible_seconds=bounds.visible, energy=launch.energy)
        ranks.write(folder)
        line = tuple(launch_line(site, shape, nodes))
        silent = unanswered(site)
        return TaskLaunch(
            stage, size, replace(launch, line=line, shim=RANK_SHIM, cancel=ranks.cancel, unanswered=silent)
        )
    if shape.ranks == 1 and not shape.gpus_per_rank and not shape.cores_per_rank:
        return TaskLaunch(stage, size, launch)  # a single process that shares this machine needs no rank file
    slots = tuple(
        rank_file(site, shape, (), port, wrapper_timeout_seconds=bounds.wrapper_timeout, slot=k)
        for k in range(size.per_node)
    )
    return TaskLaunch(stage, size, replace(launch, shim=SPAWN_SHIM), slots)


def prepare_shared(
    site: SiteModel,
    stage: str,
    size: SizeClass,
    nodes: Sequence[str],
    members: Sequence[tuple[str, Path, Sequence[Path]]],
    folder: Path,
    bounds: TimeLimits,
    account: str = "",
) -> tuple[TaskLaunch, dict[int, tuple[str, ...]]]:
    """Return the job of a launch that several attempts share, and the first rank and nodes of each, in order.

    The function writes their rank files and launches to their folders, and the list of tasks to ``folder``.

    Parameters
    ----------
    site, stage, size
        The machine, and the common stage and size of the tasks.
    nodes
        Names of all nodes.
    members
        For each attempt: the program's module, the folder, and the files of other tasks that it reads.
    folder
        Of the launch.
    bounds
        Of each attempt.
    account
        Name of the energy accounts of the nodes.
    """
    shape = group_shape(site, size.shape, len(members))
    nodes = tuple(nodes[: shape.nodes])
    ports = [_port(site, folder, number) for number in range(len(members))]
    rank_files = group_rank_files(
        site, size.shape, len(members), nodes, ports, wrapper_timeout_seconds=bounds.wrapper_timeout
    )
    ranges = group_ranges(site, size.shape, len(members))
    listed = []
    for (module, own, expects), ranks, taken in zip(members, rank_files, ranges, strict=True):
        launch = _launch(site, module, size, own, bounds, expects, account)
        replace(ranks, expects=launch.expects, visible_seconds=bounds.visible, energy=launch.energy).write(own)
        write_record(own / WRAP_FILE, launch, durable=False)
        listed.append(GroupMember(str(own), launch.module, taken.start, len(taken)))
    cancel = step_cancel(site)
    GroupFile(tuple(listed), cancel).write(folder)
    limit = bounds.deadline + bounds.grace + EXTRA_SECONDS
    launch = Launch(
        RANK_SHIM,
        str(folder),
        limit,
        task_environment(site, shape.nodes),
        heartbeat_timeout_seconds=limit,  # its tasks write heartbeats to their own folders
        grace_seconds=bounds.grace + EXTRA_SECONDS,
        line=tuple(launch_line(site, shape, nodes)),
        spec=None,
        cancel=cancel,
        unanswered=unanswered(site),
    )
    return TaskLaunch(stage, size, launch), {m.first_rank: r.nodes for m, r in zip(listed, rank_files, strict=True)}


def in_job(job: TaskLaunch, site: SiteModel, number: str) -> TaskLaunch:
    """Return a job whose launch line starts ranks in batch job ``number``; empty: in the job that starts the line.

    With several blocks, Parsl may give a task to the pool of any block, but srun knows only the nodes of its own job.
    """
    step_variables = (
        site.scheduler.system.step_variables(number) if number and site.scheduler.system is not None else None
    )
    if not step_variables or not job.size.whole:
        return job
    variables = {**job.launch.environment, **step_variables}
    return replace(job, launch=replace(job.launch, environment=variables))


def _launch(
    site: SiteModel,
    module: str,
    size: SizeClass,
    folder: Path,
    bounds: TimeLimits,
    expects: Sequence[Path],
    account: str,
) -> Launch:
    return Launch(
        module,
        str(folder),
        bounds.deadline,
        task_environment(site, max(1, size.shape.nodes)),
        bounds.heartbeat_timeout,
        bounds.grace,
        expects=(str(folder / SPEC_FILE), *map(str, expects)),
        visible_seconds=bounds.visible,
        energy=energy_plan(site, size, account) if account else None,
    )


def _port(site: SiteModel, folder: Path, number: int = 0) -> int:
    """Return the port at which the ranks of a task meet.

    Every attempt gets another port, so a port in use fails only once. Tasks of one launch, which may share
    nodes, differ in ``number``.
    """
    low, high = site.driver.rendezvous_ports
    return low + (zlib.crc32(str(folder).encode()) + number) % (high - low + 1)
