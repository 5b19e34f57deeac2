"""From a task and its place to what the task wrapper starts; pure, but for the rank file in the attempt's folder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gfm_pipeline.apps.wrapper import Launch
from gfm_pipeline.campaign.events import StageName
from gfm_pipeline.execution.launcher import Job
from gfm_pipeline.execution.sizes import SizeClass
from gfm_pipeline.sites.launch import launch_line, rank_file, task_environment
from gfm_pipeline.sites.schema import SiteModel

RANK_SHIM = "gfm_pipeline.sites.rank"
SPAWN_SHIM = "gfm_pipeline.sites.spawn"


@dataclass(frozen=True)
class Bounds:
    """What ends an attempt (s): deadline, silence of the program, grace after SIGTERM, a wrapper that is gone."""

    deadline: float
    silence: float
    grace: float
    lost: float


def prepare(
    site: SiteModel,
    stage: StageName,
    program: str,
    size: SizeClass,
    nodes: Sequence[str],
    folder: Path,
    bounds: Bounds,
) -> Job:
    """Return the job of an attempt; the rank file of a task of whole nodes is written into ``folder``."""
    shape = size.shape
    launch = Launch(
        site.programs.get(program, f"gfm_pipeline.apps.{program}"),
        str(folder),
        bounds.deadline,
        task_environment(site, max(1, shape.nodes)),
        bounds.silence,
        bounds.grace,
    )
    # Another attempt gets another port: one that is taken is a failure that passes.
    low, high = site.driver.rendezvous_ports
    port = low + zlib.crc32(str(folder).encode()) % (high - low + 1)
    if size.whole:
        ranks = rank_file(site, shape, nodes, port, lost_seconds=bounds.lost)
        ranks.write(folder)
        line = tuple(launch_line(site, shape, nodes))
        return Job(stage, size, replace(launch, line=line, shim=RANK_SHIM, cancel=ranks.cancel))
    if shape.ranks == 1 and not shape.gpus_per_rank and not shape.cores_per_rank:
        return Job(stage, size, launch)  # nothing to tell a single process that shares this machine
    slots = tuple(rank_file(site, shape, (), port, lost_seconds=bounds.lost, slot=k) for k in range(size.per_node))
    return Job(stage, size, replace(launch, shim=SPAWN_SHIM), slots)
