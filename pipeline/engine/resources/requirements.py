"""Resources of a campaign and of each task, computed from settings alone.

The rule for a training whose size is `auto`, on n usable nodes (those of the allocation less the spare ones):

- A wave should run at once. It is `search.wave` candidates, or with `auto` a quarter of all, so that later candidates
  learn from earlier ones; for the ensemble it is all members. So a training gets its share of the nodes.
- It never has more ranks than the smallest batch of the search space has graphs, each rank having at least one.
- Where a share is less than a node, trainings share nodes: an equal number of GPUs each, a divisor of a node's.
- Trainings of at most one node are spawned by Parsl's worker pools, as long as pools are known to work on so many
  nodes (`launch.max_sub_node_nodes`). Larger ones have a launch each, a step of the job.
- No more steps run at a time than the site allows (`launch.max_steps`). Beyond that, trainings get so many nodes that
  the allowed number of steps fills the allocation: 82 nodes of 8,192 with 100 steps. Where the batches are too small
  for that, many trainings share one launch, each with a range of its ranks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from gfm_pipeline.core.contracts.attempts.launch import DeviceSelection
from gfm_pipeline.engine.resources.allocation import Allocation, Impossible, SettingKey, decide_allocation
from gfm_pipeline.engine.resources.demand import Demand, SharedDemand, TrainingDemand
from gfm_pipeline.engine.stages.table import stages_of
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.search.space import Choice, Range
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.limits import (
    check_ranks,
    check_task,
    counted,
)
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import TaskShape, default_shape, host_shape, misfit, slots_per_node
from gfm_pipeline.workflow.schema import WorkflowModel

WASTE = 30  # an allocation is refused if fewer than one in so many nodes ever runs a trial
SHARED_LAUNCHES = 64  # number of launches per allocation for shared launches, if the site sets no limit


def setting(stage: str, name: str) -> str:
    """Return the path of a stage's resource setting in the workflow file, e.g. ``resources.search.nodes``."""
    return f"resources.{stage}.{name}"


@dataclass(frozen=True)
class Resources:
    """The resources of a run: its allocation, and the size of each stage's tasks (for the search, one size per rung).

    ``why`` gives the reasons for the sizes; ``warnings`` are sentences.
    """

    allocation: Allocation
    sizes: dict[str, tuple[SizeClass, ...]]
    why: dict[str, str]
    warnings: tuple[str, ...] = ()

    def at_a_time(self, stage: str, rung: int = 0) -> int:
        """Return the number of tasks of a stage that run at a time, over all jobs."""
        sizes = self.sizes[stage]
        size = sizes[min(rung, len(sizes) - 1)]
        return size.capacity(self.allocation.nodes) * self.allocation.blocks


def decide_for_stages(
    workflow: WorkflowModel, site: SiteModel, found: Resources, stages: Collection[str]
) -> Resources | Impossible:
    """Return ``found`` with the own allocation of ``stages``, and the sizes of their tasks in it."""
    allocation = workflow.allocation.of_stage(next(iter(stages)))
    own = decide_resources(workflow.model_copy(update={"allocation": allocation}), site, stages)
    if isinstance(own, Impossible):
        return own
    return replace(own, sizes={**found.sizes, **own.sizes}, why={**found.why, **own.why})


def decide_resources(
    workflow: WorkflowModel, site: SiteModel, only: Collection[str] | None = None
) -> Resources | Impossible:
    """Return the resources of a campaign on ``site``; equal settings always give equal resources.

    ``only`` names the requested stages; None: all.
    """
    stages = [stage for stage in stages_of(workflow) if only is None or stage.name in only]
    demands = {stage.name: stage.demand(workflow) for stage in stages}
    for name, demand in demands.items():
        ranks = demand.ranks_per_node if isinstance(demand, TrainingDemand) else None
        if ranks and (refused := check_ranks(site, ranks)):
            return Impossible(setting(name, "ranks_per_node"), refused.message, refused.hint)
    allocation = decide_allocation(workflow, site)
    if isinstance(allocation, Impossible):
        return allocation
    sizes: dict[str, tuple[SizeClass, ...]] = {}
    why: dict[str, str] = {}
    for name, demand in demands.items():
        decided = _sizes(workflow, site, allocation, name, demand)
        if isinstance(decided, Impossible):
            return decided
        sizes[name], why[name] = decided
    if (
        allocation.blocks > 1
        and site.scheduler.system is not None
        and site.scheduler.system.step_variables("") is None
        and any(s.whole for n in sizes.values() for s in n)
    ):
        return Impossible(
            SettingKey.BLOCKS,
            f"On {site.scheduler.system.title} a training over whole nodes cannot be told "
            "in which of several jobs it runs.",
            "Set allocation.blocks to 1 and ask for more nodes.",
        )
    found = Resources(allocation, sizes, why)
    wasted = _wasted(workflow, found, demands)
    return wasted if wasted is not None else replace(found, warnings=tuple(_idle(found, demands)))


def _sizes(
    workflow: WorkflowModel, site: SiteModel, allocation: Allocation, name: str, demand: Demand
) -> tuple[tuple[SizeClass, ...], str] | Impossible:
    """Return the sizes of a stage's tasks, and the reasons."""
    if isinstance(demand, TrainingDemand):
        return _trainings(workflow, site, allocation, name, demand)
    on_gpu = demand.gpu and demand.cores is None
    shape = default_shape(site, 0) if on_gpu else host_shape(site, demand.cores)
    if reason := misfit(site, shape):
        threads = site.node.usable_threads
        hint = f"Ask for {threads} cores or fewer."
        return Impossible(setting(name, "cores"), f"This task cannot run: {reason}.", hint)
    return (_shared(site, shape, allocation, demand.tasks),), "shares nodes"


def _busy(found: Resources, demands: Mapping[str, Demand]) -> Iterator[tuple[str, int, str]]:
    """Yield name, number of busy nodes and a sentence for each stage that should fill the allocation."""
    nodes = found.allocation.usable * found.allocation.blocks
    for name, demand in demands.items():
        if isinstance(demand, SharedDemand) or not demand.fills:
            continue
        size = found.sizes[name][0]
        tasks = min(found.at_a_time(name), demand.counts[0])
        busy = tasks * size.shape.nodes or -(-tasks // size.per_node)
        each = counted(size.shape.nodes, "node") if size.shape.nodes else f"1/{size.per_node} of a node"
        yield (
            name,
            busy,
            f"The {name} keeps at most {busy:,} of {counted(nodes, 'node')} busy "
            f"({counted(tasks, 'trial')} at a time, {each} each).",
        )


def _idle(found: Resources, demands: Mapping[str, Demand]) -> Iterator[str]:
    """Yield a sentence if the trainings of a stage with rungs cannot keep half of the allocation busy."""
    nodes = found.allocation.usable * found.allocation.blocks
    yield from (sentence for _, busy, sentence in _busy(found, demands) if busy * 2 <= nodes and nodes > 1)


def _wasted(workflow: WorkflowModel, found: Resources, demands: Mapping[str, Demand]) -> Impossible | None:
    """Return why a requested allocation is a waste: only a few of its nodes would ever run a task."""
    nodes = found.allocation.usable * found.allocation.blocks
    if not isinstance(workflow.allocation.nodes, int):
        return None
    for name, busy, sentence in _busy(found, demands):
        if busy * WASTE <= nodes:
            n_nodes = -(-busy // found.allocation.blocks) + found.allocation.spare
            return Impossible(
                SettingKey.NODES,
                sentence,
                f"Ask for {counted(n_nodes, 'node')} or fewer, or raise resources.{name}.nodes or {name}.wave.",
            )
    return None


def smallest_batch(workflow: WorkflowModel) -> int:
    """Return the smallest number of graphs per optimiser step over all candidates."""
    space = workflow.search.space.compile()
    dimensions = [space.shared["batch_size"], *(d["batch_size"] for d in space.own.values() if "batch_size" in d)]
    lows = [min(d.values) if isinstance(d, Choice) else d.low for d in dimensions if isinstance(d, Choice | Range)]
    return int(min(lows))


def _per_node(site: SiteModel, shape: TaskShape) -> int:
    """Return the number of tasks of a shape per node; without a batch system, the number of slots."""
    if site.scheduler.system is None and not shape.gpus_per_rank:
        return max(1, site.resolved_slots() // shape.ranks_per_node)
    return max(1, slots_per_node(site, shape))


def _pools_work(site: SiteModel, nodes: int) -> bool:
    """Return whether worker pools can run on all of ``nodes`` nodes."""
    most = site.launch.max_sub_node_nodes
    return nodes == 1 or (bool(site.launch.pool_template) and (most is None or nodes <= most))


def _shared(site: SiteModel, shape: TaskShape, allocation: Allocation, tasks: int) -> SizeClass:
    """Return the size of tasks that pool workers start, on at most as many nodes as pools are known to support.

    A node gets at most as many workers as ``tasks`` tasks can keep busy: each worker imports many Python modules.
    """
    per_node = 1 if shape.nodes else _per_node(site, shape)
    nodes = allocation.usable
    if site.scheduler.system is not None:
        per_node = min(per_node, -(-tasks // nodes))
    if not _pools_work(site, allocation.nodes):
        most = site.launch.max_sub_node_nodes if site.launch.pool_template else 1
        nodes = min(nodes, most or nodes)
    limit = None if nodes == allocation.nodes else nodes * per_node
    return SizeClass(shape, LaunchStrategy.SPAWN, per_node, limit)


def max_launches(site: SiteModel, allocation: Allocation) -> int | None:
    """Return the limit of launches over whole nodes per job at a time; None: no known limit."""
    most = site.launch.max_steps
    return None if most is None else max(1, most // allocation.blocks)


def _sized(site: SiteModel, shape: TaskShape, allocation: Allocation, tasks: int) -> SizeClass:
    """Return how tasks of a shape start, and how many at a time, for at most ``tasks`` tasks."""
    if shape.nodes < 2 and _pools_work(site, allocation.nodes):
        return _shared(site, shape, allocation, tasks)
    steps = max_launches(site, allocation)
    per_node = 1 if shape.nodes else _per_node(site, shape)
    fit = allocation.usable // shape.nodes if shape.nodes else allocation.usable * per_node
    if shape.nodes and (steps is None or min(fit, tasks) <= steps):
        most = fit if steps is None else min(fit, steps)
        return SizeClass(shape, LaunchStrategy.STEP, 1, most if most < allocation.nodes // shape.nodes else None)
    launches = min(steps or SHARED_LAUNCHES, allocation.usable)
    group = -(-min(fit, tasks) // launches)
    return SizeClass(shape, LaunchStrategy.GROUP, per_node, min(fit, launches * group), group, launches)


def _trainings(
    workflow: WorkflowModel, site: SiteModel, allocation: Allocation, name: str, demand: TrainingDemand
) -> tuple[tuple[SizeClass, ...], str] | Impossible:
    """Return the sizes of the trainings of a stage, and the reasons."""
    key, batch = setting(name, "nodes"), smallest_batch(workflow)
    if demand.nodes is None:
        shape, why = automatic_shape(site, allocation, demand.at_a_time, batch, demand.ranks_per_node)
        return (_sized(site, shape, allocation, demand.at_a_time),), why
    sizes = []
    for nodes, tasks in zip(demand.nodes, demand.counts, strict=False):
        if refused := check_task(site, nodes, allocation.usable):
            return Impossible(key, refused.message, refused.hint)
        shape = _shape(site, nodes, demand.ranks_per_node)
        if reason := misfit(site, shape):
            return Impossible(key, f"This training cannot run: {reason}.", "Ask for fewer ranks_per_node.")
        if shape.ranks > batch:
            return Impossible(key, *_too_many_ranks(shape, batch))
        sizes.append(_sized(site, shape, allocation, tasks))
    if any(size.whole for size in sizes):
        # Tasks of pool workers and tasks on named nodes never run in a job at the same time: then all take whole nodes.
        one_node = [size.shape.nodes == 1 and not size.whole for size in sizes]
        sizes = [_stepped(site, s, allocation) if spawned else s for s, spawned in zip(sizes, one_node, strict=True)]
    for size in sizes:
        if (fault := _unbound(site, size)) is not None:
            return Impossible(setting(name, "ranks_per_node"), *fault)
    return tuple(sizes), "as the workflow says"


def _stepped(site: SiteModel, size: SizeClass, allocation: Allocation) -> SizeClass:
    steps = max_launches(site, allocation)
    most = allocation.usable if steps is None else min(allocation.usable, steps)
    return SizeClass(size.shape, LaunchStrategy.STEP, 1, most)


def _unbound(site: SiteModel, size: SizeClass) -> tuple[str, str] | None:
    """Return why the batch system would not give ranks the GPUs of the site file, and the fix; or None."""
    ranks, gpus = size.shape.ranks_per_node, site.node.gpus
    if not size.whole or site.launch.device is not DeviceSelection.SCHEDULER or ranks == gpus:
        return None
    return (
        f"On {site.name} the batch system deals the GPUs of a node to its ranks: {gpus} are needed, not {ranks}.",
        "Leave ranks_per_node out, or give these trainings at most one node each.",
    )


def _too_many_ranks(shape: TaskShape, batch: int) -> tuple[str, str]:
    most = batch // shape.ranks_per_node
    nearest = f"{most:,} nodes or fewer" if most > 1 else "1 node" if most else f"{batch} ranks_per_node or fewer"
    return (
        f"A training over {shape.ranks:,} ranks ({max(1, shape.nodes):,} x {shape.ranks_per_node}) leaves some without "
        f"a graph: the smallest batch_size of search.space is {batch:,}.",
        f"Ask for {nearest}, or for a batch_size of {shape.ranks:,} or more.",
    )


def _shape(site: SiteModel, nodes: int, ranks_per_node: int | None) -> TaskShape:
    if site.scheduler.system is None and not site.node.gpus:
        return TaskShape(nodes, ranks_per_node or 1, 0, 0)
    return default_shape(site, nodes, ranks_per_node)


def automatic_shape(
    site: SiteModel, allocation: Allocation, tasks: int, max_ranks: int, ranks_per_node: int | None = None
) -> tuple[TaskShape, str]:
    """Return the shape of ``tasks`` trainings that should run at a time, and the reason, by the rule of this module.

    Parameters
    ----------
    site, allocation
        The machine, and the allocation.
    tasks
        Number of trainings that should run at a time.
    max_ranks
        Largest number of ranks that one training can use.
    ranks_per_node
        Ranks per node, if the workflow sets them.
    """
    full = _shape(site, 1, ranks_per_node)
    usable, steps = allocation.usable, max_launches(site, allocation)
    most_nodes = max_ranks // full.ranks_per_node
    ideal = usable // tasks
    pools = _pools_work(site, allocation.nodes)
    filling = usable if steps is None else math.ceil(usable / steps)  # nodes per training, to fill the job
    if ideal >= 1 and most_nodes >= 1 and (site.node.gpus or site.scheduler.system is not None):
        nodes = min(ideal, most_nodes)
        at_once = min(tasks, usable // nodes)
        limited = f", as many as batches of {max_ranks} graphs keep busy" if nodes < ideal else ""
        if (nodes == 1 and pools) or steps is None or at_once <= steps:
            return _shape(
                site, nodes, ranks_per_node
            ), f"{counted(usable, 'node')} for {counted(tasks, 'training')} at a time{limited}"
        if filling <= most_nodes:
            return _shape(site, filling, ranks_per_node), f"{steps} launches at a time fill {usable:,} nodes"
        return _shape(site, nodes, ranks_per_node), f"many trainings a launch, at most {steps} of which run at a time"
    ranks = ranks_per_node or _part_of_node(site, usable, tasks, max_ranks)
    small = _shape(site, 0, ranks)
    if pools:
        return small, f"{counted(tasks, 'training')} at a time share {counted(usable, 'node')}"
    if steps is not None and filling <= most_nodes:
        return _shape(site, filling, ranks_per_node), f"{steps} launches at a time fill {usable:,} nodes"
    return small, "many trainings a launch, since worker pools are not known to work on so many nodes"


def _part_of_node(site: SiteModel, usable: int, tasks: int, max_ranks: int) -> int:
    """Return the ranks of a training that shares a node: the largest divisor of a node's GPUs within its share."""
    gpus = site.node.gpus
    share = min(max(1, gpus * usable // tasks), max_ranks)
    return max(n for n in range(1, max(1, gpus) + 1) if max(1, gpus) % n == 0 and n <= share)
