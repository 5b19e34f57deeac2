"""Build the view of a campaign from its journal and result files; reads only, works with or without a driver."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gfm_pipeline.campaign.events import AttemptOutcome, Cause, DriverStarted, Member
from gfm_pipeline.campaign.holder import is_dead
from gfm_pipeline.campaign.lock import read_holder
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import Attempt, StageState, TaskState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.campaign.usage import of_tasks, usage
from gfm_pipeline.core.contracts.evaluation import CalibrateResult
from gfm_pipeline.core.contracts.task import PROGRESS_FILE
from gfm_pipeline.core.contracts.training_result import StopReason, TrainResult
from gfm_pipeline.core.version import __version__
from gfm_pipeline.engine.stages import calibrate, converge, ingest, search
from gfm_pipeline.engine.stages.base import Records, Stage
from gfm_pipeline.engine.stages.calibrate import FIT
from gfm_pipeline.engine.stages.objectives import compared, searched
from gfm_pipeline.engine.stages.table import shown
from gfm_pipeline.engine.stages.trials import objective_of, stopped_early, task_name
from gfm_pipeline.engine.tasks.task_files import error_table
from gfm_pipeline.report.energy import energy_view, kilowatt_hours
from gfm_pipeline.report.sources import assembled, build_sources
from gfm_pipeline.report.stops import stops
from gfm_pipeline.report.view import (
    INTERRUPTED,
    CampaignView,
    CandidateView,
    CurvePoint,
    MemberView,
    ParetoPoint,
    RungView,
    SourceView,
    StageStatus,
    StageView,
    TaskFailure,
)
from gfm_pipeline.search.pareto import pareto_front

FAILURES_SHOWN = 20


def build_view(campaign: Path) -> CampaignView:
    """Return all facts that status and report show of the campaign in folder ``campaign``.

    Raises
    ------
    IntegrityError
        When the journal is damaged.
    """
    paths = CampaignPaths(campaign.resolve())
    state = load_state(paths.journal)
    now = max(time.time(), state.last_event)  # the clock may have jumped back since
    alive, driver = driver_standing(paths, state)
    last = state.drivers[-1].info if state.drivers else None
    edit = _edit_first(state, alive)
    datasets, trials, trained = (state.stage(stage.NAME) for stage in (ingest, search, converge))
    sources = build_sources(paths, datasets, alive)
    records = _records(sources)
    members = trials.members if trials is not None and trials.members is not None else ()
    used = usage(state, now, alive=alive)
    return CampaignView(
        name=state.created.name if state.created else campaign.name,
        path=str(paths.root),
        site=last.site if last else "",
        workflow=last.workflow if last else "",
        created=state.created_at,
        now=now,
        version=last.version if last else __version__,
        driver=driver,
        driver_alive=alive,
        stages=stage_views(state, alive, records),
        sources=sources,
        datasets=tuple(result.statistics for result in assembled(datasets)),
        candidates=() if trials is None else tuple(_candidates(paths, trials, members, alive)),
        members=() if trials is None else tuple(_member(paths, trials, trained, m, alive) for m in members),
        calibration=_calibration(state.stage(calibrate.NAME)),
        pareto=() if trials is None else _pareto(trials),
        failures=_failures(paths, state),
        node_hours=used.node_seconds / 3600.0,
        energy=energy_view(used),
        budget=state.budget,
        resolved=last.resolved.get("workflow", {}) if last else {},
        next_command=_next_command(paths, state, alive, edit),
        edit_first=edit,
        options=_options(paths, last),
    )


def _pareto(stage: StageState) -> tuple[ParetoPoint, ...]:
    """Return the Pareto front of a search with several objectives."""
    names = searched(stage)
    if len(names) < 2:
        return ()
    vectors = compared(stage)
    return tuple(ParetoPoint(name, dict(zip(names, vectors[name], strict=True))) for name in pareto_front(vectors))


def _options(paths: CampaignPaths, last: DriverStarted | None) -> tuple[str, ...]:
    """Return the options of the command that repeats the campaign's last run."""
    if last is None:
        return ()
    site = last.resolved.get("site") or {"name": last.site, "overlays": []}
    found = [] if paths.root.parent == Path(last.workflow).parent / "campaigns" else ["--campaign", str(paths.root)]
    found += ["--site", str(site["name"])]
    found += [part for overlay in site["overlays"] for part in ("--overlay", str(overlay))]
    found += [part for text in last.resolved.get("overrides", []) for part in ("--set", str(text))]
    return tuple(found)


def driver_standing(paths: CampaignPaths, state: CampaignState) -> tuple[bool, str]:
    """Return whether the campaign's driver is running, and its state in words."""
    found = read_holder(paths.lock)
    if found is not None:
        holder, age = found
        dead = is_dead(holder, age)
        who = f"pid {holder.pid} on {holder.host}, heartbeat {age:.0f} s ago"
        if dead:
            return False, f"died ({who})"
        return (dead is False or age < 30), f"running ({who})" if dead is False or age < 30 else f"silent ({who})"
    if state.drivers and state.drivers[-1].outcome is not None:
        return False, f"not running (last one: {state.drivers[-1].outcome})"
    return False, "not running"


def _records(sources: tuple[SourceView, ...]) -> Records:
    known = sum(s.status is StageStatus.DONE for s in sources)
    read, set_aside = sum(s.records for s in sources), sum(s.set_aside for s in sources)
    return Records(read, set_aside, known, complete=known == len(sources))


def stage_views(state: CampaignState, alive: bool, records: Records) -> tuple[StageView, ...]:
    """Return the stages of a campaign; ``alive``: whether its driver is running."""
    return tuple(_stage(state, stage, alive, records) for stage in shown(state.current))


def _stage(state: CampaignState, declared: Stage, alive: bool, records: Records) -> StageView:
    name, stage = declared.name, state.stage(declared.name)
    if stage is None:
        return StageView(name, StageStatus.WAITING, None, 0, 0, 0, None, None, 0.0, "not started")
    tasks = stage.tasks.values()
    count = {status: sum(t.status is status for t in tasks) for status in TaskStatus}
    if stage.outputs is not None:
        status = StageStatus.DONE
    elif stage.failure is not None:
        status = StageStatus.FAILED
    else:
        status = StageStatus.RUNNING if alive else StageStatus.STOPPED
    return StageView(
        name=name,
        status=status,
        tasks_total=len(stage.tasks) if status is StageStatus.DONE else declared.expected_tasks(state, stage),
        tasks_done=count[TaskStatus.DONE],
        tasks_running=count[TaskStatus.RUNNING] if alive else 0,
        tasks_failed=count[TaskStatus.FAILED],
        started=stage.opened,
        ended=stage.ended if stage.ended is not None or alive else state.last_event,
        busy_seconds=sum(t.seconds for t in tasks),
        detail=stage.failure or declared.describe(stage, records),
    )


def _calibration(stage: StageState | None) -> CalibrateResult | None:
    task = stage.tasks.get(FIT) if stage is not None else None
    return None if task is None else task.decoded(CalibrateResult)


def _candidates(
    paths: CampaignPaths, stage: StageState, members: Iterable[Member], alive: bool
) -> Iterable[CandidateView]:
    selected = {m.candidate: m.name for m in members}
    rungs = stage.settings["rungs"]
    stopped, evidence = stopped_early(stage), stops(stage)
    for candidate in stage.candidates().values():
        name = candidate.name
        tasks = [(r, stage.tasks[t]) for r in range(len(rungs)) if (t := task_name(name, r)) in stage.tasks]
        views = tuple(
            RungView(r, rungs[r], objective_of(stage, name, r), task.seconds, _objective_error(task))
            for r, task in tasks
            if task.status in (TaskStatus.DONE, TaskStatus.FAILED)
        )
        running = next((t.name for _, t in tasks if alive and t.status is TaskStatus.RUNNING), None)
        status, outcome = _candidate_status(tasks, running, stopped.get(name), selected.get(name), len(rungs), alive)
        outcome = "; ".join(words for words in (outcome, stage.passed_over.get(name)) if words)
        curve = _curve(paths, stage, [t for _, t in tasks])
        used = of_tasks(task for _, task in tasks)
        yield CandidateView(
            name, candidate.wave, candidate.settings, views, status, outcome, curve, running,
            kilowatt_hours(used.all), used.joules_per_graph, evidence.get(name) if status == "stopped" else None,
        )  # fmt: skip


def _objective_error(task: TaskState) -> float | None:
    result = task.decoded(TrainResult)
    return None if result is None else result.objective_error


def _candidate_status(
    tasks: list[tuple[int, TaskState]],
    running: str | None,
    stopped: str | None,
    member: str | None,
    rungs: int,
    alive: bool,
) -> tuple[str, str]:
    if member is not None:
        return "selected", f"member {member} of the ensemble"
    if running is not None:
        return "running", "training"
    last = tasks[-1][1] if tasks else None
    if last is not None and last.diverged:
        return "diverged", last.history[-1].reason or "loss not finite"
    if last is not None and last.status is TaskStatus.FAILED:
        return "failed", last.history[-1].reason if last.history else ""
    if stopped is not None:
        return "stopped", stopped
    if last is not None and len(tasks) == rungs and last.status is TaskStatus.DONE:
        return "finished", "reached the last rung"
    if not alive and last is not None and last.status in (TaskStatus.RUNNING, TaskStatus.TO_RETRY):
        return INTERRUPTED, "continues in the next run"
    return "waiting", "waits for a slot or for its wave"


def _member(
    paths: CampaignPaths, search: StageState, converge: StageState | None, member: Member, alive: bool
) -> MemberView:
    before = [search.tasks[task_name(member.candidate, r)] for r in range(member.rung + 1)]
    curve = _curve(paths, search, before)
    task = converge.tasks.get(member.name) if converge is not None else None
    if converge is None or task is None:
        return MemberView(member.name, member.candidate, member.settings, "waiting", 0, None, {}, curve)
    offset = curve[-1].seconds if curve else 0.0
    more = _curve(paths, converge, [task])
    curve += tuple(CurvePoint(p.graphs, p.seconds + offset, p.objective) for p in more)
    result = task.decoded(TrainResult)
    if result is None:
        begun = "running" if task.status is TaskStatus.RUNNING else "waiting"
        unfinished = begun if alive else INTERRUPTED
        status = "failed" if task.status is TaskStatus.FAILED else unfinished
        last = more[-1] if more else None
        graphs, objective = (last.graphs, last.objective) if last else (0, None)
        return MemberView(member.name, member.candidate, member.settings, status, graphs, objective, {}, curve)
    status = "converged" if result.stop_reason is StopReason.CONVERGED else str(result.stop_reason)
    return MemberView(
        member.name, member.candidate, member.settings, status, result.graphs, result.objective, result.errors, curve
    )


def _curve(paths: CampaignPaths, stage: StageState, tasks: Iterable[TaskState]) -> tuple[CurvePoint, ...]:
    """Return the validations in the progress files of all attempts at ``tasks``, in order of graphs seen."""
    points: dict[int, CurvePoint] = {}
    offset = 0.0
    for task in tasks:
        for attempt in range(1, task.attempt + 1):
            file = paths.stage(stage.stage, stage.key).attempt(task.name, attempt) / PROGRESS_FILE
            for line in _json_lines(file):
                if line.get("objective") is not None and "graphs" in line:
                    seconds = offset + float(line.get("seconds", 0.0))
                    points[line["graphs"]] = CurvePoint(line["graphs"], seconds, line["objective"])
        offset += task.seconds
    return tuple(points[graphs] for graphs in sorted(points))


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                value = json.loads(line)
            except ValueError:
                continue  # an incomplete line
            if isinstance(value, dict):
                yield value


_FAILED = (AttemptOutcome.RETRYABLE, AttemptOutcome.PERMANENT)
_INTERRUPTED = (Cause.WALL_TIME, Cause.LAUNCHER_LOST)  # not failures of the task, but not on request either


def _failures(paths: CampaignPaths, state: CampaignState) -> tuple[TaskFailure, ...]:
    """Return the newest failed attempts, the last one last."""
    found = [
        (attempt.started, stage, task.name, attempt)
        for stage, task in state.all_tasks()
        for attempt in task.history
        if attempt.outcome in _FAILED or attempt.cause in _INTERRUPTED
    ]
    found.sort(key=lambda entry: entry[0])
    return tuple(_failure(paths, *entry[1:]) for entry in found[-FAILURES_SHOWN:])


def _failure(paths: CampaignPaths, stage: StageState, task: str, attempt: Attempt) -> TaskFailure:
    folder = paths.stage(stage.stage, stage.key).attempt(task, attempt.number)
    return TaskFailure(
        f"{stage.stage}/{task}",
        attempt.number,
        attempt.reason,
        str(folder / "stderr.log"),
        str(attempt.cause or ""),
        str(attempt.action or ""),
        error_table(folder),
    )


def _next_command(paths: CampaignPaths, state: CampaignState, alive: bool, edit: str) -> str:
    final = state.stage(calibrate.NAME)
    done = final is not None and final.outputs is not None
    if edit and state.drivers:
        return shlex.join(["gfm-pipeline", "run", edit, *_options(paths, state.drivers[-1].info)])
    verb = "report" if done else "status" if alive else "resume"
    return shlex.join(["gfm-pipeline", verb, str(paths.root)])


def _edit_first(state: CampaignState, alive: bool) -> str:
    """Return the workflow if a stage failed by a fault of the user's input; '' if continuing may help."""
    wrong = any(
        stage is not None and stage.failure is not None and _is_users(stage)
        for stage in map(state.stage, state.current)
    )
    return state.drivers[-1].info.workflow if wrong and not alive and state.drivers else ""


def _is_users(stage: StageState) -> bool:
    failed = [task.history[-1] for task in stage.tasks.values() if task.status is TaskStatus.FAILED and task.history]
    return any(attempt.cause is Cause.USER_ERROR for attempt in failed)
