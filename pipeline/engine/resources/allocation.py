"""The batch jobs a campaign runs in: how many nodes, for how long, in which queue."""

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

START_SECONDS = 60  # of workers and a first task: a job has to hold so long beside the warning before its end


class SettingKey(StrEnum):
    """Settings of the allocation that a refusal points at; those of a stage are `setting`'s."""

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
    """Settings the site cannot run: the one at fault, a sentence, and the nearest possible one."""

    key: str
    message: str
    hint: str


@dataclass(frozen=True)
class Allocation:
    """The batch jobs a campaign runs in; on a machine without a batch system, that machine.

    Parameters
    ----------
    nodes
        Of one job, spare ones included.
    spare
        Kept for those that fail.
    hours
        Wall time of one job; None: unlimited.
    queue, account
        By their names; None where there are none.
    blocks
        Jobs at a time.
    bin
        The range of sizes the job falls in, in words.
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
        """Nodes of one job that tasks are placed on."""
        return self.nodes - self.spare


def decide_allocation(workflow: WorkflowModel, site: SiteModel) -> Allocation | Impossible:
    """Return the jobs of a campaign, or the setting that cannot be had."""
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
    """Return why a wall time is of no use: the driver takes its leave before anything it started is done."""
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
    """Return how many nodes a wave of the search keeps busy, within what the queue takes."""
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
    n_nodes = usable
    while n_nodes - _spare(site, n_nodes) < usable:
        n_nodes += 1
    queue = site.scheduler.queues.get(queue_name(site, workflow.allocation.queue) or "")
    smallest = 1 if queue is None else min(b.min_nodes for b in queue.bins)
    n_nodes = min(max(n_nodes, smallest), largest(site, workflow.allocation.queue))
    if queue is not None and bin_of(queue, n_nodes) is None:  # in a gap between two ranges
        n_nodes = min((b.min_nodes for b in queue.bins if b.min_nodes > n_nodes), default=n_nodes)
    return n_nodes


def _spare(site: SiteModel, nodes: int) -> int:
    return int(nodes * site.driver.spare_share)
