"""The batch jobs of a campaign: their nodes, wall time and queue."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gfm_pipeline.core.strenum import StrEnum
from gfm_pipeline.engine.resources.demand import SharedDemand
from gfm_pipeline.engine.stages.table import stages_of
from gfm_pipeline.sites.limits import (
    About,
    Refusal,
    bin_of,
    check_job,
    largest,
    queue_name,
)
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import default_shape, slots_per_node
from gfm_pipeline.workflow.schema import WorkflowModel

START_SECONDS = 60  # of workers and a first task: a job must last this long in addition to the warning time


class SettingKey(StrEnum):
    """Settings of the allocation that a refusal can name; `setting` gives those of stages."""

    ACCOUNT = "site.scheduler.account"
    QUEUE = "allocation.queue"
    NODES = "allocation.nodes"
    HOURS = "allocation.hours"
    BLOCKS = "allocation.blocks"


_KEYS = {
    About.ACCOUNT: SettingKey.ACCOUNT,
    About.QUEUE: SettingKey.QUEUE,
    About.NODES: SettingKey.NODES,
    About.HOURS: SettingKey.HOURS,
}


@dataclass(frozen=True)
class Impossible:
    """Settings that the site cannot run: the setting at fault, a sentence, and the nearest possible value."""

    key: str
    message: str
    hint: str


@dataclass(frozen=True)
class Allocation:
    """The batch jobs of a campaign; without a batch system, the machine itself.

    Parameters
    ----------
    nodes
        Nodes per job, including spare ones.
    spare
        Spare nodes for failures.
    hours
        Wall time of one job; None: unlimited.
    queue, account
        Names; None if there are none.
    blocks
        Number of jobs at a time.
    bin
        The queue's range of job sizes that contains the job, in words.
    warnings
        Sentences.
    """

    nodes: int
    spare: int
    hours: float | None
    queue: str | None
    account: str | None
    blocks: int
    bin: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def usable(self) -> int:
        """Number of nodes per job for tasks."""
        return self.nodes - self.spare


def decide_allocation(workflow: WorkflowModel, site: SiteModel) -> Allocation | Impossible:
    """Return the jobs of a campaign, or the impossible setting."""
    requested = workflow.allocation
    nodes = requested.nodes if isinstance(requested.nodes, int) else _wanted_nodes(workflow, site)
    job = check_job(site, requested.queue, nodes, requested.hours if isinstance(requested.hours, float) else None)
    if isinstance(job, Refusal):
        return Impossible(_KEYS[job.about], job.message, job.hint)
    short = _too_short(site, job.hours)
    if short is not None:
        return short
    blocks = requested.blocks if site.scheduler.system is not None else 1
    fit = job.bin
    words = "" if fit is None else f"{fit.min_nodes:,} to {fit.max_nodes:,} nodes get {fit.max_hours:g} h"
    return Allocation(nodes, _spare(site, nodes), job.hours, job.queue, job.account, blocks, words, job.warnings)


def _too_short(site: SiteModel, hours: float | None) -> Impossible | None:
    """Return why a wall time is too short: the driver would stop before its first task ends."""
    warning = site.driver.warning_seconds
    least = warning + START_SECONDS
    if site.scheduler.system is None or hours is None or hours * 3600 >= least:
        return None
    return Impossible(
        SettingKey.HOURS,
        f"A job of {hours:g} h ({hours * 3600:.0f} s) does nothing: the driver leaves {warning} s before the end "
        f"(site.driver.warning_seconds), and a start takes up to {START_SECONDS} s.",
        f"Ask for {math.ceil(least / 36) / 100:g} h or more, or add --set site.driver.warning_seconds=SECONDS.",
    )


def _wanted_nodes(workflow: WorkflowModel, site: SiteModel) -> int:
    """Return the number of nodes that a wave of the search keeps busy, within the queue's limits."""
    if site.scheduler.system is None:
        return 1
    usable = 0
    for stage in stages_of(workflow):
        demand = stage.demand(workflow)
        if isinstance(demand, SharedDemand):
            continue
        largest_task = max(demand.nodes or (0,))
        if demand.fills:
            shape = default_shape(site, 0, demand.ranks_per_node)
            at_once = demand.at_a_time
            usable = max(usable, largest_task * at_once or -(-at_once // max(1, slots_per_node(site, shape))))
        usable = max(usable, largest_task)
    return job_nodes(site, workflow.allocation.queue, usable)


def job_nodes(site: SiteModel, queue: str | None, usable: int) -> int:
    """Return the least number of nodes of a job with ``usable`` nodes besides its spares, within a queue's limits."""
    n_nodes = usable
    while n_nodes - _spare(site, n_nodes) < usable:
        n_nodes += 1
    found = site.scheduler.queues.get(queue_name(site, queue) or "")
    smallest = 1 if found is None else min(b.min_nodes for b in found.bins)
    n_nodes = min(max(n_nodes, smallest), largest(site, queue))
    if found is not None and bin_of(found, n_nodes) is None:  # in a gap between two ranges
        n_nodes = min((b.min_nodes for b in found.bins if b.min_nodes > n_nodes), default=n_nodes)
    return n_nodes


def _spare(site: SiteModel, nodes: int) -> int:
    return int(nodes * site.driver.spare_share)
