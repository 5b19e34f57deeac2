"""What a run would do: each stage done or to run, why, how many tasks, and the most it can train."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.campaign.events import StageName
from gfm_pipeline.campaign.identity import differences
from gfm_pipeline.campaign.state import CampaignState, StageState, TaskStatus
from gfm_pipeline.engine.decide import opening
from gfm_pipeline.engine.stages.search import wave_sizes
from gfm_pipeline.engine.step import Context


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan. ``why`` lists the values that changed; ``work`` says what there is to do."""

    name: str
    action: str  # done | continue | run
    why: tuple[str, ...]
    work: str
    tasks_left: int | None


@dataclass(frozen=True)
class Plan:
    """What `run` would do now."""

    stages: tuple[StagePlan, ...]
    slots: int
    campaign: str
    max_graphs: int  # upper bound of training graphs still to be seen


def make_plan(context: Context, state: CampaignState) -> Plan:
    """Return the plan; the same settings and state always give the same plan."""
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
    todo = {s.name for s in stages if s.action != "done"}
    return Plan(tuple(stages), context.slots, str(context.paths.root), _graphs(context, todo))


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
            return f"{search.candidates} candidates in {len(sizes)} waves; {rungs}", sum(counts)
        case StageName.CONVERGE:
            return (
                f"{members} members, each until it converges, at most {workflow.converge.max_graphs:,} graphs",
                members,
            )
    return f"predictions of {members} members, then calibration at {workflow.calibrate.level:.0%}", members + 1


def _graphs(context: Context, todo: set[str]) -> int:
    """Return the most graphs that trainings still to run can see."""
    search, converge = context.workflow.search, context.workflow.converge
    total = 0
    if StageName.SEARCH in todo:
        before = 0
        for rung, graphs in enumerate(search.rungs):
            total += int(search.candidates / search.reduction**rung) * (graphs - before)
            before = graphs
    if StageName.CONVERGE in todo:
        total += converge.members * int(converge.max_graphs * (1 + converge.anneal_fraction))
    return total
