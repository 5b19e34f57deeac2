"""Jobs of stages: a stage that would leave most of a large allocation idle gets a smaller job of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.resources.allocation import START_SECONDS, Allocation, Impossible, decide_allocation, job_nodes
from gfm_pipeline.engine.resources.demand import Demand, SharedDemand
from gfm_pipeline.engine.resources.requirements import Resources
from gfm_pipeline.engine.stages.base import Stage
from gfm_pipeline.engine.stages.table import stages_of
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.limits import Refusal, check_job, queue_name
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import slots_per_node
from gfm_pipeline.workflow.resource_sections import AllocationModel, StageAllocationModel
from gfm_pipeline.workflow.schema import WorkflowModel

SHARE = 4  # a stage with at most one in so many nodes busy gets a job of its own


def with_own_jobs(workflow: WorkflowModel, site: SiteModel, found: Resources) -> AllocationModel:
    """Return the allocation of a workflow, with a smaller job for each stage that needs few of its nodes.

    The search keeps the requested allocation, and so does every stage whose allocation the workflow gives. Nothing
    changes without a batch system, with several jobs at a time, in a queue that forbids chains of jobs, and with fewer
    nodes than ``allocation.split_nodes``, where waiting for another job costs more than idle nodes.

    Parameters
    ----------
    workflow, site
        Settings and machine.
    found
        Resources of all stages in the requested allocation.
    """
    requested, whole = workflow.allocation, found.allocation
    few = requested.split_nodes is None or whole.nodes < requested.split_nodes
    if few or whole.blocks > 1 or not _chains(site, requested):
        return requested
    own = dict(requested.stages)
    for stage in stages_of(workflow):
        busy = _busy_nodes(site, found, stage.name, stage.demand(workflow))
        if stage.name in own or busy is None or busy * SHARE > whole.usable:
            continue
        if (job := smaller_job(site, requested, busy, whole.nodes, whole.hours)) is not None:
            own[stage.name] = job
    return requested.model_copy(update={"stages": own})


def _busy_nodes(site: SiteModel, found: Resources, name: str, demand: Demand) -> int | None:
    """Return the largest number of nodes that a stage keeps busy; None for a stage that the allocation is made for."""
    size = found.sizes[name][0]
    if isinstance(demand, SharedDemand):
        each = slots_per_node(site, size.shape)
        return -(-demand.tasks // each) if each else None
    if demand.fills:
        return None
    return size.nodes_of(min(demand.at_a_time, found.at_a_time(name)))


def jobs_of(workflow: WorkflowModel, site: SiteModel) -> Iterator[tuple[tuple[str, ...], Allocation]]:
    """Yield consecutive stages that share a job, with this job, in the order they run; none without a batch system."""
    if site.scheduler.system is None:
        return
    names = [stage.name for stage in stages_of(workflow)]
    for requested, together in groupby(names, key=workflow.allocation.of_stage):
        job = decide_allocation(workflow.model_copy(update={"allocation": requested}), site)
        if not isinstance(job, Impossible):
            yield tuple(together), job


def rest_job(
    context: Context, state: CampaignState, site: SiteModel, held: int, now: float
) -> StageAllocationModel | None:
    """Return the job for the last tasks of the present stage if they leave most of ``held`` nodes idle; else None.

    ``now`` is Unix time.
    """
    requested = context.workflow.allocation
    if (
        requested.split_nodes is None
        or held < requested.split_nodes
        or requested.blocks > 1
        or not _chains(site, requested)
    ):
        return None
    stage, known = _present(context, state)
    if stage is None or known is None:
        return None
    busy = stage.nodes_left(context, known)
    if not busy or busy * SHARE > held:
        return None
    hours, seconds = decided_hours(requested.of_stage(stage.name)), stage.seconds_left(context, known, now)
    return smaller_job(site, requested, busy, held, hours, seconds)


def hands_over(context: Context, state: CampaignState, site: SiteModel, held: int, now: float) -> bool:
    """Return whether the last tasks of the present stage should go on in a smaller job; ``now`` is Unix time."""
    if rest_job(context, state, site, held, now) is None:
        return False
    stage, known = _present(context, state)
    least = context.workflow.allocation.split_seconds
    return stage is not None and known is not None and stage.seconds_left(context, known, now) >= least


def as_before(workflow: WorkflowModel, name: str, sizes: Sequence[SizeClass]) -> WorkflowModel:
    """Return a workflow in which the trainings of a stage have given sizes, whatever the allocation."""
    nodes, ranks = [size.shape.nodes for size in sizes], sizes[0].shape.ranks_per_node
    own = getattr(workflow.resources, name)
    fixed = own.model_copy(update={"nodes": nodes if nodes[1:] else nodes[0], "ranks_per_node": ranks})
    return workflow.model_copy(update={"resources": workflow.resources.model_copy(update={name: fixed})})


def _present(context: Context, state: CampaignState) -> tuple[Stage | None, StageState | None]:
    """Return the first unfinished stage, with its state; None: it has not begun."""
    for stage in stages_of(context.workflow):
        known = state.stage(stage.name)
        if known is None:
            return None, None
        if known.outputs is None:
            return stage, known
    return None, None


def _chains(site: SiteModel, requested: AllocationModel) -> bool:
    """Return whether a queue of a batch system lets a job submit the next one."""
    queue = site.scheduler.queues.get(queue_name(site, requested.queue) or "")
    return site.scheduler.system is not None and queue is not None and queue.chaining


def smaller_job(
    site: SiteModel, requested: AllocationModel, busy: int, held: int, hours: float | None, seconds: float = 0.0
) -> StageAllocationModel | None:
    """Return a job of fewer than ``held`` nodes in which ``busy`` nodes can work; None: the queue has none.

    A queue may give small jobs too little wall time for ``seconds`` of work. Then the job has the next larger size
    whose wall time suffices, up to a quarter of ``held`` nodes; beyond that, the work goes on in several jobs.
    """
    least = job_nodes(site, requested.queue, busy)
    queue = site.scheduler.queues.get(queue_name(site, requested.queue) or "")
    larger = sorted(b.min_nodes for b in (() if queue is None else queue.bins) if b.min_nodes * SHARE <= held)
    needed = seconds + site.driver.warning_seconds + START_SECONDS
    found: StageAllocationModel | None = None
    for nodes in (least, *(n for n in larger if n > least)):
        job = check_job(site, requested.queue, nodes)
        if nodes >= held or isinstance(job, Refusal):
            continue
        wall = min((limit for limit in (job.hours, hours) if limit is not None), default=None)
        found = found or StageAllocationModel(nodes=nodes, hours=wall)
        if wall is None or wall == hours or wall * 3600.0 >= needed:
            return StageAllocationModel(nodes=nodes, hours=wall)
    return found


def decided_hours(requested: AllocationModel) -> float | None:
    """Return the wall time that an allocation names; None: the queue's longest."""
    return requested.hours if isinstance(requested.hours, float) else None
