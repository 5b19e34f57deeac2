"""``results.csv``: the candidates of a search in the columns of DeepHyper and its tools.

``objective`` is the quantity that DeepHyper maximises: minus the objective at the last finished rung. For candidates
that diverged or failed, it is a word that begins with F. ``m:`` columns contain other facts: the objective's
standard error, rungs, graphs, times since the search began (s), node-seconds, and energy with its origin.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from gfm_pipeline.campaign.stage_state import StageState, TaskState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.engine.stages.objectives import compared, searched
from gfm_pipeline.engine.stages.search import NAME
from gfm_pipeline.engine.stages.trials import objective_of, task_name
from gfm_pipeline.report.view import INTERRUPTED, CandidateView
from gfm_pipeline.search.pareto import pareto_front

FILE = "results.csv"


def results_csv(state: CampaignState, candidates: tuple[CandidateView, ...]) -> str:
    """Return the table of a campaign's search; '' while it has no candidate."""
    stage = state.stage(NAME)
    if stage is None or not candidates:
        return ""
    names = sorted({name for candidate in candidates for name in candidate.settings})
    rungs = max((rung for _, rung in _trained(stage, candidates)), default=0) + 1
    rows = [_row(stage, candidate, number, rungs) for number, candidate in enumerate(candidates)]
    if len(searched(stage)) > 1:
        front, vectors = pareto_front(compared(stage)), compared(stage)
        for row in rows:
            name = row["m:candidate"]
            values = zip(searched(stage), vectors.get(name, ()), strict=False)
            row |= {f"m:objective_{objective}": "" if value is None else value for objective, value in values}
            row["m:pareto_efficient"] = name in front
    measured = list(dict.fromkeys(key for row in rows for key in row if not key.startswith("p:")))
    text = io.StringIO()
    table = csv.DictWriter(text, [*(f"p:{name}" for name in names), *measured], lineterminator="\n", restval="")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _trained(stage: StageState, candidates: tuple[CandidateView, ...]) -> list[tuple[TaskState, int]]:
    found = []
    for candidate in candidates:
        rung = 0
        while (task := stage.tasks.get(task_name(candidate.name, rung))) is not None:
            found.append((task, rung))
            rung += 1
    return found


def _row(stage: StageState, candidate: CandidateView, number: int, rungs: int) -> dict[str, Any]:
    tasks = [task for task, _ in _trained(stage, (candidate,))]
    ended = [rung for rung, task in enumerate(tasks) if task.status in (TaskStatus.DONE, TaskStatus.FAILED)]
    objectives = {rung: objective_of(stage, candidate.name, rung) for rung in ended}
    last = ended[-1] if ended else None
    value = None if last is None else objectives[last]
    if value is not None:
        shown: Any = -value
    else:
        shown = "" if last is None else f"F_{'diverged' if tasks[last].diverged else 'failed'}"
    result = None if last is None else tasks[last].decoded(TrainResult)
    unfinished = candidate.status in ("running", "waiting", INTERRUPTED)
    row: dict[str, Any] = {f"p:{name}": setting for name, setting in candidate.settings.items()}
    row |= {
        "objective": shown,
        "job_id": number,
        "job_status": candidate.status.upper() if unfinished else "DONE",
        "m:timestamp_submit": round(tasks[0].started - stage.opened, 3) if tasks else "",
        "m:timestamp_gather": "" if last is None else round((tasks[last].ended or stage.opened) - stage.opened, 3),
        "m:candidate": candidate.name,
        "m:wave": candidate.wave,
        "m:status": candidate.status,
        "m:outcome": candidate.outcome,
        "m:rung": "" if last is None else last,
        "m:graphs": "" if result is None else result.graphs,
        "m:seconds": round(sum(task.seconds for task in tasks), 3),
        "m:peak_memory_gb": "" if result is None or result.peak_memory_gb is None else result.peak_memory_gb,
        "m:objective_error": "" if result is None or result.objective_error is None else result.objective_error,
    }
    for rung in range(rungs):
        known = objectives.get(rung)
        row[f"m:objective_rung_{rung}"] = "" if known is None else known
    stop = candidate.stop
    row["m:stop_rung"] = "" if stop is None else stop.rung
    for column in ("error", "threshold", "rank", "of", "saved_graphs", "saved_node_hours", "saved_kwh"):
        value = None if stop is None else getattr(stop, column)
        row[f"m:stop_{column}"] = "" if value is None else value
    energy = candidate.energy
    row["m:kwh"] = "" if energy is None else energy.kwh
    row["m:kwh_error"] = "" if energy is None or energy.error is None else energy.error
    row["m:kwh_label"] = "" if energy is None else str(energy.label)
    return row
