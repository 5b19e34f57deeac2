"""The plan of a run: for each stage, whether it would run, why, how many tasks, where, and at what cost.

The allocation and the sizes of tasks are the same objects as in the run
(`gfm_pipeline.engine.resources.requirements`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from gfm_pipeline.campaign.budget_standing import Standing
from gfm_pipeline.campaign.identity import differences
from gfm_pipeline.campaign.stage_state import StageState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.budgets import Budget
from gfm_pipeline.engine.decisions.decide import finished_stage, opening, stage_of, taken_over
from gfm_pipeline.engine.decisions.estimates import Estimates, estimate
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.resources.allocation import Allocation
from gfm_pipeline.engine.resources.requirements import Resources
from gfm_pipeline.engine.resources.stage_jobs import jobs_of
from gfm_pipeline.engine.stages.search import NAME as SEARCH
from gfm_pipeline.engine.stages.search_size import rung_counts
from gfm_pipeline.engine.stages.table import stages_of
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.limits import counted
from gfm_pipeline.sites.schema import SiteModel


@dataclass(frozen=True)
class TaskSize:
    """Resources of one task of a stage, the way its ranks start, and the number of such tasks at a time."""

    nodes: int  # 0: it shares a node
    ranks: int
    ranks_per_node: int
    gpus_per_rank: int
    cores_per_rank: int  # 0: the system's choice
    strategy: str
    at_a_time: int


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan.

    ``why`` lists the changed values; ``work`` describes the work; ``sizes`` has one entry, or one per rung
    of the search, and ``why_sizes`` gives their reasons.
    """

    name: str
    action: str  # done | continue | run
    why: tuple[str, ...]
    work: str
    tasks_left: int | None
    sizes: tuple[TaskSize, ...] = ()
    why_sizes: str = ""


@dataclass(frozen=True)
class CampaignPlan:
    """The plan: what `run` would do now."""

    stages: tuple[StagePlan, ...]
    slots: int
    campaign: str
    max_graphs: int  # upper bound of remaining training graphs
    site: str
    mode: str  # place of the driver
    allocation: Allocation
    estimates: Estimates
    warnings: tuple[str, ...]
    budget: tuple[Standing, ...] = ()


def make_plan(
    context: Context, state: CampaignState, site: SiteModel, resources: Resources, input_bytes: int = 0
) -> CampaignPlan:
    """Return the plan; equal settings and state always give equal plans.

    Parameters
    ----------
    context, state
        Settings, and the present state.
    site, resources
        The machine, and the campaign's resources on it.
    input_bytes
        Size of all input files.
    """
    stages = [
        replace(s, sizes=_sizes(resources, s.name), why_sizes=resources.why[s.name]) for s in _stages(context, state)
    ]
    graphs = _graphs(context, {s.name for s in stages if s.action != "done"})
    return CampaignPlan(
        tuple(stages),
        context.slots,
        str(context.paths.root),
        sum(graphs.values()),
        site.name,
        site.driver.mode,
        resources.allocation,
        estimate(context.workflow, site, resources, state, graphs, input_bytes),
        (
            *resources.allocation.warnings,
            *resources.warnings,
            *_own_jobs(context, site),
            *_too_few_survivors(context, stages),
        ),
        Budget(context, state, site, state.last_event, alive=False).standings(),
    )


def _own_jobs(context: Context, site: SiteModel) -> Iterator[str]:
    """Yield a sentence about the jobs if stages have jobs of different sizes."""
    jobs = list(jobs_of(context.workflow, site))
    if len(jobs) > 1:
        parts = (
            f"{' and '.join(names)} on {counted(job.nodes, 'node')} ({job.hours or 0.0:g} h)" for names, job in jobs
        )
        yield f"Stages run in jobs of their own: {', '.join(parts)}."


def _too_few_survivors(context: Context, stages: Iterable[StagePlan]) -> Iterator[str]:
    """Yield a sentence if fewer candidates than members can train to the last rung."""
    workflow = context.workflow
    last, members = rung_counts(workflow)[-1], workflow.converge.members
    if last < members and any(stage.name == SEARCH and stage.action != "done" for stage in stages):
        yield (
            f"At most {last} of {counted(workflow.search.candidates, 'candidate')} can train to the last rung, and "
            f"converge.members is {members}: the other members are chosen after shorter trainings. Lower "
            "search.reduction, drop a rung, or raise search.candidates to avoid it."
        )


def _sizes(resources: Resources, stage: str) -> tuple[TaskSize, ...]:
    return tuple(_size(size, resources.at_a_time(stage, rung)) for rung, size in enumerate(resources.sizes[stage]))


def _size(size: SizeClass, at_a_time: int) -> TaskSize:
    shape = size.shape
    return TaskSize(
        shape.nodes,
        shape.ranks,
        shape.ranks_per_node,
        shape.gpus_per_rank,
        shape.cores_per_rank,
        size.strategy,
        at_a_time,
    )


def _stages(context: Context, state: CampaignState) -> list[StagePlan]:
    """Return the action of each stage, and the reason."""
    stages = []
    behind: str | None = None  # the first unfinished stage: later stages wait for its outputs
    for declared in stages_of(context.workflow):
        name = declared.name
        work, tasks = _work(context, state, name)
        opened = None if behind is not None else opening(context, state, name)
        if opened is None:
            stages.append(StagePlan(name, "run", (f"{behind} runs before it",), work, tasks))
            continue
        stage = state.stages.get(opened.key)
        if finished_stage(context, state, name) is not None:
            stages.append(StagePlan(name, "done", (), "nothing: its results are used as they are", 0))
            continue
        behind = name
        if stage is not None:
            done = sum(t.status is TaskStatus.DONE for t in stage.tasks.values())
            left = None if tasks is None else max(0, tasks - done)
            why = (stage.failure,) if stage.failure else (f"begun before; {done} finished tasks are kept",)
            stages.append(StagePlan(name, "continue", why, work, left))
            continue
        changes, reused = _changes(state, name, opened.settings, opened.inputs), taken_over(state, declared, opened)
        n_done = 0 if reused is None else _done(state.stages[reused.origin], reused.tasks)
        if n_done:
            changes = (*changes[:5], f"{counted(n_done, 'result')} of before {'is' if n_done == 1 else 'are'} kept")
        stages.append(StagePlan(name, "run", changes, work, None if tasks is None else max(0, tasks - n_done)))
    return stages


def _done(stage: StageState, tasks: Iterable[str]) -> int:
    return sum(stage.tasks[name].status is TaskStatus.DONE for name in tasks)


def _changes(state: CampaignState, name: str, settings: dict[str, object], inputs: dict[str, str]) -> tuple[str, ...]:
    before: StageState | None = state.stage(name)
    if before is None:
        return ("not started",)
    lines = differences(before.settings, settings) + [
        line if len(line) < 120 else line[:117] + "..." for line in differences(before.inputs, inputs, "input")
    ]
    return tuple(lines) or ("the stage's code changed",)


def _work(context: Context, state: CampaignState, name: str) -> tuple[str, int | None]:
    """Return the whole work of a stage, and its number of tasks if known."""
    work = stage_of(context, name).work(context, state)
    return work.words, work.tasks


def _graphs(context: Context, todo: set[str]) -> dict[str, int]:
    """Return the largest number of graphs in the remaining trainings, by stage."""
    stages = stages_of(context.workflow)
    return {s.name: s.graphs(context.workflow) if s.name in todo else 0 for s in stages if s.trains}
