"""What a run would do: each stage done or to run, why, how many tasks, on what, and what it may cost.

The allocation and the sizes of tasks are the very objects the run is given
(`gfm_pipeline.engine.resources.requirements`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gfm_pipeline.campaign.events import StageName
from gfm_pipeline.campaign.identity import differences
from gfm_pipeline.campaign.state import CampaignState, StageState, TaskStatus
from gfm_pipeline.engine.decisions.decide import opening
from gfm_pipeline.engine.decisions.estimates import Estimates, estimate
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.resources.requirements import Allocation, Resources
from gfm_pipeline.engine.stages.search import wave_sizes
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.limits import counted
from gfm_pipeline.sites.schema import SiteModel


@dataclass(frozen=True)
class TaskSize:
    """What one task of a stage gets, how its ranks are started, and how many such tasks run at a time."""

    nodes: int  # 0: it shares one
    ranks: int
    ranks_per_node: int
    gpus_per_rank: int
    cores_per_rank: int  # 0: the system's choice
    strategy: str
    at_a_time: int


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan.

    ``why`` lists the values that changed; ``work`` says what there is to do; ``sizes`` has one entry, or one a rung
    of the search, and ``why_sizes`` says how they were decided.
    """

    name: str
    action: str  # done | continue | run
    why: tuple[str, ...]
    work: str
    tasks_left: int | None
    sizes: tuple[TaskSize, ...] = ()
    why_sizes: str = ""


@dataclass(frozen=True)
class Plan:
    """What `run` would do now."""

    stages: tuple[StagePlan, ...]
    slots: int
    campaign: str
    max_graphs: int  # upper bound of training graphs still to be seen
    site: str
    mode: str  # where the driver lives
    allocation: Allocation
    estimates: Estimates
    warnings: tuple[str, ...]


def make_plan(
    context: Context, state: CampaignState, site: SiteModel, resources: Resources, input_bytes: int = 0
) -> Plan:
    """Return the plan; the same settings and state always give the same plan.

    Parameters
    ----------
    context, state
        Settings, and what is done.
    site, resources
        The machine, and what the campaign gets of it.
    input_bytes
        Size of all input files.
    """
    stages = [
        replace(s, sizes=_sizes(resources, StageName(s.name)), why_sizes=resources.why[StageName(s.name)])
        for s in _stages(context, state)
    ]
    graphs = _graphs(context, {s.name for s in stages if s.action != "done"})
    return Plan(
        tuple(stages),
        context.slots,
        str(context.paths.root),
        sum(graphs.values()),
        site.name,
        site.driver.mode,
        resources.allocation,
        estimate(context.workflow, site, resources, state, graphs, input_bytes),
        (*resources.allocation.warnings, *resources.warnings),
    )


def _sizes(resources: Resources, stage: StageName) -> tuple[TaskSize, ...]:
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
    """Return what each stage would do, and why."""
    stages = []
    behind: StageName | None = None  # the first stage that is not done: what follows waits for its outputs
    for name in StageName:
        work, tasks = _work(context, state, name)
        opened = None if behind is not None else opening(context, state, name)
        if opened is None:
            stages.append(StagePlan(name, "run", (f"its inputs come from {behind}",), work, tasks))
            continue
        stage = state.stages.get(opened.key)
        if stage is not None and stage.outputs is not None:
            stages.append(StagePlan(name, "done", (), "nothing: its results are used as they are", 0))
            continue
        behind = name
        if stage is not None:
            done = sum(t.status is TaskStatus.DONE for t in stage.tasks.values())
            left = None if tasks is None else max(0, tasks - done)
            why = (stage.failure,) if stage.failure else (f"begun before; {done} finished tasks are kept",)
            stages.append(StagePlan(name, "continue", why, work, left))
            continue
        stages.append(StagePlan(name, "run", _changes(state, name, opened.settings, opened.inputs), work, tasks))
    return stages


def _changes(
    state: CampaignState, name: StageName, settings: dict[str, object], inputs: dict[str, str]
) -> tuple[str, ...]:
    before: StageState | None = state.stage(name)
    if before is None:
        return ("not begun",)
    lines = differences(before.settings, settings) + [
        line if len(line) < 120 else line[:117] + "..." for line in differences(before.inputs, inputs, "input")
    ]
    return tuple(lines) or ("the stage's code changed",)


def _work(context: Context, state: CampaignState, name: StageName) -> tuple[str, int | None]:
    """Return what a stage has to do when nothing is done yet, and its number of tasks where known."""
    workflow = context.workflow
    search, members = workflow.search, workflow.converge.members
    match name:
        case StageName.INGEST:
            shards = sum(s.shards for s in context.sources)
            return f"{shards} shards of {len(context.sources)} sources", shards + len(context.sources)
        case StageName.SEARCH:
            stage = state.stage(name)
            sizes = wave_sizes(search.candidates, search.wave, stage.slots if stage else context.slots)
            counts = [int(search.candidates / search.reduction**r) for r in range(len(search.rungs))]
            rungs = ", ".join(f"{n} to {g:,} graphs" for n, g in zip(counts, search.rungs, strict=True))
            return f"{search.candidates} candidates in {counted(len(sizes), 'wave')}; {rungs}", sum(counts)
        case StageName.CONVERGE:
            return (
                f"{members} members, each until it converges, at most {workflow.converge.max_graphs:,} graphs",
                members,
            )
    return f"predictions of {members} members, then calibration at {workflow.calibrate.level:.0%}", members + 1


def _graphs(context: Context, todo: set[str]) -> dict[StageName, int]:
    """Return the most graphs that trainings still to run can see, by stage."""
    search, converge = context.workflow.search, context.workflow.converge
    found = {StageName.SEARCH: 0, StageName.CONVERGE: 0}
    if StageName.SEARCH in todo:
        before = 0
        for rung, graphs in enumerate(search.rungs):
            found[StageName.SEARCH] += int(search.candidates / search.reduction**rung) * (graphs - before)
            before = graphs
    if StageName.CONVERGE in todo:
        found[StageName.CONVERGE] = converge.members * int(converge.max_graphs * (1 + converge.anneal_fraction))
    return found
