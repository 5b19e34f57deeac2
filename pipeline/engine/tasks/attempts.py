"""Attempts at tasks: the specification of each, and its observed state while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.campaign.events import Action
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.task import Assignment, TaskSpec
from gfm_pipeline.engine.decisions.requests import AnyRequest, Context
from gfm_pipeline.engine.resources.node_pool import Placement
from gfm_pipeline.engine.tasks.retries import micro_batch
from gfm_pipeline.execution.prepare import TimeLimits
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import threads_of
from gfm_pipeline.workflow.schema import LimitsModel

GRACE_SHARE = 0.75  # share of the time for stopping, after which a program that still runs is killed

TaskKey = tuple[str, str]  # key of the task's stage, and the task's name
AttemptKey = tuple[str, str, int]  # identity of an attempt for the launcher: its task and its number


@dataclass(frozen=True)
class Running:
    """A running attempt.

    Parameters
    ----------
    request, attempt, folder
        Task, number, and working folder.
    started
        Monotonic seconds.
    size, placement
        Resources, and their place.
    launch
        Folder of the shared launch, which holds the places; None: the attempt has its own launch.
    """

    request: AnyRequest
    attempt: int
    folder: Path
    started: float
    size: SizeClass
    placement: Placement
    launch: Path | None = None

    @property
    def task(self) -> TaskKey:
        """The task of the attempt."""
        return self.request.key, self.request.name

    @property
    def key(self) -> AttemptKey:
        """The identity of the attempt for the launcher."""
        return self.request.key, self.request.name, self.attempt


def next_attempt(state: CampaignState, request: AnyRequest) -> int:
    """Return the number of a task's next attempt."""
    known = state.stages[request.key].tasks.get(request.name)
    return 1 if known is None else known.attempt + 1


def spec_of(context: Context, state: CampaignState, site: SiteModel, request: AnyRequest) -> TaskSpec:
    """Return the spec of the next attempt: the task's spec, with changes from earlier attempts and its size."""
    known = state.stages[request.key].tasks.get(request.name)
    paths = context.paths.stage(request.stage, request.key)
    shape = context.size_of(request).shape
    spec: TaskSpec = request.spec
    batch, number = spec.divisible_batch, next_attempt(state, request)
    given = Assignment(
        tuple(str(paths.attempt(request.name, k)) for k in range(1, number)),
        None if known is None or batch is None else micro_batch(batch, known.counted),
        shape.ranks,
        threads_of(site, shape),
        site.gpu.device if shape.gpus_per_rank else "cpu",
        site.compile_training,
    )
    return spec.assigned(given)


def bounds_of(limits: LimitsModel, visible: float) -> TimeLimits:
    """Return the time limits of an attempt; ``visible`` is its wait for files of other hosts (s)."""
    grace = limits.stop_seconds * GRACE_SHARE
    return TimeLimits(
        limits.task_hours * 3600.0, limits.heartbeat_timeout_seconds, grace, limits.wrapper_timeout_seconds, visible
    )


def failed_on(state: CampaignState, request: AnyRequest) -> set[str]:
    """Return the nodes where a task failed, perhaps by their fault: the next attempt prefers other nodes."""
    known = state.stages[request.key].tasks.get(request.name)
    retried = [a for a in known.counted if a.action in (Action.RETRY, Action.SHRINK)] if known else []
    return {node for attempt in retried for node in attempt.nodes}


def can_shrink(state: CampaignState, request: AnyRequest) -> bool:
    """Return whether a task can run with a smaller micro-batch."""
    batch = request.spec.divisible_batch
    if batch is None:
        return False
    return (micro_batch(batch, state.stages[request.key].tasks[request.name].counted) or batch) > 1
