"""Converts a task and its placement to the launch of its wrapper; pure, except for the files that ranks read."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.core.contracts.attempts.launch import GroupMember
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


EXTRA_SECONDS = 60.0  # in which the tasks of a shared launch end, after their grace
ENDLESS_SECONDS = 1e9  # time limit of a shared launch: its tasks have their own, and the driver ends it


@dataclass(frozen=True)
class NewMember:
    """An attempt for a shared launch: the program's module, the folder, and the files of other tasks that it reads."""

    module: str
    folder: Path
    expects: Sequence[Path] = ()


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
    site: SiteModel, stage: str, size: SizeClass, nodes: Sequence[str], tasks: int, folder: Path, bounds: TimeLimits
) -> TaskLaunch:
    """Return the job of a launch that attempts share; `prepare_members` prepares its attempts.

    Parameters
    ----------
    site, stage, size
        The machine, and the common stage and size of the tasks.
    nodes
        Names of all nodes.
    tasks
        Largest number of tasks at a time.
    folder
        Of the launch.
    bounds
        Of each attempt.
    """
    shape = group_shape(site, size.shape, tasks)
    launch = Launch(
        RANK_SHIM,
        str(folder),
        ENDLESS_SECONDS,
        task_environment(site, shape.nodes),
        heartbeat_timeout_seconds=ENDLESS_SECONDS,  # its tasks write heartbeats to their own folders
        grace_seconds=bounds.grace + EXTRA_SECONDS,
        line=tuple(launch_line(site, shape, nodes[: shape.nodes])),
        spec=None,
        cancel=step_cancel(site),
        unanswered=unanswered(site),
    )
    return TaskLaunch(stage, size, launch)


def prepare_members(
    site: SiteModel,
    size: SizeClass,
    nodes: Sequence[str],
    tasks: int,
    wanted: Mapping[int, NewMember],
    folder: Path,
    bounds: TimeLimits,
    account: str = "",
    number: int = 0,
) -> dict[int, tuple[GroupMember, tuple[str, ...]]]:
    """Prepare attempts for places of a shared launch; return their records and nodes by place.

    The function writes their rank files and launches to their folders.

    Parameters
    ----------
    site, size, nodes, tasks, folder, bounds
        As in `prepare_shared`.
    wanted
        Attempts by place: a place is one of the launch's equal ranges of ranks, counted from 0.
    account
        Name of the energy accounts of the nodes.
    number
        Number of the first of these attempts among all attempts of the launch.
    """
    shape = group_shape(site, size.shape, tasks)
    nodes = tuple(nodes[: shape.nodes])
    patience = bounds.wrapper_timeout
    rank_files = group_rank_files(site, size.shape, tasks, nodes, [0] * tasks, wrapper_timeout_seconds=patience)
    ranges = group_ranges(site, size.shape, tasks)
    found = {}
    for count, (place, new) in enumerate(wanted.items(), number):
        ranks, taken = rank_files[place], ranges[place]
        launch = _launch(site, new.module, size, new.folder, bounds, new.expects, account)
        replace(
            ranks,
            master_port=_port(site, folder, count),
            expects=launch.expects,
            visible_seconds=bounds.visible,
            energy=launch.energy,
        ).write(new.folder)
        write_record(new.folder / WRAP_FILE, launch, durable=False)
        found[place] = GroupMember(str(new.folder), launch.module, taken.start, len(taken), count), ranks.nodes
    return found


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
