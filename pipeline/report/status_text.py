"""The output of ``gfm-pipeline status``, for users and, as one JSON object, for programs."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from gfm_pipeline.campaign import budget_standing
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.report import energy
from gfm_pipeline.report.summary import doubts
from gfm_pipeline.report.tables import campaign as tables
from gfm_pipeline.report.tables import candidates as candidate_tables
from gfm_pipeline.report.tables import data as data_tables
from gfm_pipeline.report.tables import headlines
from gfm_pipeline.report.text import (
    MISSING,
    count,
    duration,
    objective,
    percent,
    ratio,
    short_count,
    significant,
    symbol,
)
from gfm_pipeline.report.view import CampaignView, CandidateView, CurvePoint, StageStatus, StageView

SCHEMA_VERSION = 1
_COLORS = {
    "done": "green", "running": "cyan", "failed": "red", "stopped": "bright_black", "waiting": "bright_black",
    "interrupted": "bright_black",
    "selected": "green", "finished": "cyan", "diverged": "red", "converged": "green", "limit": "yellow",
}  # fmt: skip
_BAR = 18
WIDE = 90  # narrower terminals show neither settings nor outcomes
MOST_SOURCES, MOST_CANDIDATES, MOST_RUNNING, MOST_MEMBERS, MOST_FAILURES = 8, 8, 8, 12, 3


def status_json(view: CampaignView) -> dict[str, Any]:
    """Return the whole view as plain data, with ``schema_version``, the overall ``status`` and ``doubts``."""
    plain: dict[str, Any] = to_plain(view)
    return {"schema_version": SCHEMA_VERSION, "status": tables.overall(view), "doubts": list(doubts(view)), **plain}


def render_status(view: CampaignView, console: Console) -> None:
    """Print the state of a campaign: driver, stages, running tasks, the best so far, failures, the next command."""
    state = tables.overall(view)
    title = Text.assemble((view.name, "bold"), "  ", _status(state), f"  on {view.site}, {view.path}")
    console.print(title, highlight=False)
    console.print(Text.assemble("driver ", (view.driver, "default" if view.driver_alive else "bright_black")))
    used = f"used {significant(view.node_hours)} node-hours"
    if view.energy.total is not None:
        used += f", {energy.shown(view.energy.total)}"
    console.print(Text(f"{used}, {duration(view.now - view.created)} since it was created"))
    for standing in view.budget:
        console.print(Text(f"budget, {budget_standing.sentence(standing)}"))
    console.print(_stages(view, console.width))
    width = console.width
    drawn = (
        _sources(view, width),
        _running(view),
        _candidates(view, width),
        _members(view),
        _results(view, width),
        _other_results(view),
    )
    for table in drawn:
        if table is not None:
            console.print(table)
    if view.pareto:
        points = [
            f"{p.candidate} ({', '.join(f'{n} {v:.4g}' for n, v in p.objectives.items() if v is not None)})"
            for p in view.pareto[:MOST_CANDIDATES]
        ]
        console.print(Text(f"Pareto front of {len(view.pareto)}: {', '.join(points)}"), soft_wrap=True)
    if saved := tables.saved_line(view):
        console.print(Text(saved), soft_wrap=True)
    for sentence in doubts(view):
        console.print(Text.assemble(("WARNING ", "bold red"), sentence), soft_wrap=True)
    _failures(view, console)
    if view.next_command:
        edit = f"edit {view.edit_first}, then " if view.edit_first else ""
        console.print(Text.assemble(f"next: {edit}", (view.next_command, "bold")), soft_wrap=True)


def _status(state: str) -> Text:
    return Text(f"{symbol(state)} {state}", style=_COLORS.get(state, ""))


def _grid(title: str, *columns: tuple[str, str]) -> RichTable:
    table = RichTable(
        title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for name, justify in columns:
        right = justify == "right"
        table.add_column(name, justify="right" if right else "left", no_wrap=right, header_style="bright_black")
    return table


def _bar(stage: StageView) -> Text:
    total = stage.tasks_total or 0
    filled = _BAR if stage.status == "done" else round(_BAR * min(stage.tasks_done, total) / max(total, 1))
    return Text.assemble(("━" * filled, _COLORS.get(stage.status, "")), ("─" * (_BAR - filled), "bright_black"))


def _stages(view: CampaignView, width: int) -> RichTable:
    wide = width >= WIDE
    columns = [("stage", ""), ("status", ""), ("tasks", "right"), ("running", "right"), ("failed", "right")]
    columns += [("time", "right"), *([("progress", ""), ("", "")] if wide else [])]
    table = _grid("", *columns)
    table.title = None
    for stage in view.stages:
        total = "?" if stage.tasks_total is None else count(stage.tasks_total)
        wall = None if stage.started is None else (stage.ended or view.now) - stage.started
        cells: list[RenderableType] = [
            stage.name,
            _status(stage.status),
            f"{count(stage.tasks_done)}/{total}",
            count(stage.tasks_running) if stage.tasks_running else "",
            Text(count(stage.tasks_failed), style="red") if stage.tasks_failed else "",
            duration(wall),
        ]
        table.add_row(*cells, *((_bar(stage), Text(stage.detail, style="bright_black")) if wide else ()))
    return table


def _sources(view: CampaignView, width: int) -> RichTable | None:
    """Return read and quarantined records by source; sources not yet joined, or with most losses, come first."""
    if not any(source.records for source in view.sources):
        return None
    wide = width >= WIDE
    columns = [("source", ""), ("status", ""), ("shards", "right"), ("records", "right"), ("set aside", "right")]
    table = _grid("data", *columns, ("share", "right"), *([("why", "")] if wide else []))
    ranked = sorted(
        view.sources, key=lambda s: (s.status is StageStatus.DONE, -s.set_aside / max(1, s.records))
    )  # stable: equal sources stay in the order of the workflow
    for source in ranked[:MOST_SOURCES]:
        style = "yellow" if source.set_aside else ""
        cells: list[RenderableType] = [
            Text(source.name), _status(source.status), f"{count(source.shards_read)}/{count(source.shards)}",
            count(source.records), Text(count(source.set_aside), style=style),
            data_tables.share(source.set_aside, source.records),
        ]  # fmt: skip
        if wide:
            cells.append(Text(data_tables.reasons_line(source.reasons), style="bright_black"))
        table.add_row(*cells)
    _collapsed(table, len(view.sources) - MOST_SOURCES)
    return table


def _last(curve: tuple[CurvePoint, ...]) -> tuple[str, str]:
    return (short_count(curve[-1].graphs), objective(curve[-1].objective)) if curve else ("", "")


def _running(view: CampaignView) -> RichTable | None:
    rows = [(c.running_task, c.name, *_last(c.curve)) for c in view.candidates if c.running_task]
    rows += [(m.name, m.candidate, *_last(m.curve)) for m in view.members if m.status == "running"]
    if not rows:
        return None
    table = _grid("running", ("task", ""), ("candidate", ""), ("graphs", "right"), ("objective", "right"))
    for task, *rest in rows[:MOST_RUNNING]:
        table.add_row(Text(str(task)), *(Text(cell) for cell in rest))
    _collapsed(table, len(rows) - MOST_RUNNING)
    return table


def _collapsed(table: RichTable, hidden: int) -> None:
    if hidden > 0:
        table.caption = Text(f"and {count(hidden)} more", style="bright_black")
        table.caption_justify = "left"


def _candidate_key(candidate: CandidateView) -> tuple[int, float]:
    value = candidate_tables.best_objective(candidate)
    return (-len(candidate.rungs), float("inf") if value is None else value)


def _candidates(view: CampaignView, width: int) -> RichTable | None:
    finished = [c for c in view.candidates if c.rungs]
    if not finished:
        return None
    wide = width >= WIDE
    columns = [("candidate", ""), ("graphs", "right"), ("objective", "right"), ("status", "")]
    table = _grid("best candidates", *columns, *([("settings", ""), ("outcome", "")] if wide else []))
    best = sorted(finished, key=_candidate_key)[:MOST_CANDIDATES]
    _, own = candidate_tables.candidate_settings(view.candidates)
    differing = {c.name: flat for c, flat in zip(view.candidates, own, strict=True)}
    for candidate in best:
        cells: list[RenderableType] = [
            Text(candidate.name),
            short_count(candidate.rungs[-1].graphs),
            objective(candidate_tables.best_objective(candidate), error=candidate_tables.best_error(candidate)),
            _status(candidate.status),
        ]
        if wide:
            cells += [
                Text(candidate_tables.one_line(differing[candidate.name])),
                Text(candidate.outcome, style="bright_black"),
            ]
        table.add_row(*cells)
    _collapsed(table, len(finished) - len(best))
    return table


def _members(view: CampaignView) -> RichTable | None:
    if not view.members:
        return None
    table = _grid("ensemble", ("member", ""), ("from", ""), ("status", ""), ("graphs", "right"), ("objective", "right"))
    for member in view.members[:MOST_MEMBERS]:
        table.add_row(
            Text(member.name), Text(member.candidate), _status(member.status), short_count(member.graphs),
            objective(member.objective),
        )  # fmt: skip
    _collapsed(table, len(view.members) - MOST_MEMBERS)
    return table


def _results(view: CampaignView, width: int) -> RichTable | None:
    if view.calibration is None:
        return None
    wide = width >= WIDE
    ratios = ("of nothing", "right")
    table = _grid(
        f"test split: MAE, and what {percent(view.calibration.level, 0)} force intervals cover",
        *(("dataset", ""), ("forces meV/Å", "right"), *([ratios] if wide else [])),
        *(("energy meV/atom", "right"), *([ratios] if wide else []), ("coverage", "right")),
    )
    for name, report in view.calibration.judged.items():
        cells = []
        for part in (report.forces, report.energy):
            cells.append(headlines.mae(part))
            if wide:
                cells.append(significant(ratio(part.mae, part.null_mae)))
        before, after = percent(report.forces.coverage_raw), percent(report.forces.coverage_calibrated)
        shown = f"{before} → {after}" if wide else after
        table.add_row(Text(name), *cells, shown if report.forces.n else MISSING)
    return table


def _other_results(view: CampaignView) -> RichTable | None:
    """Return the results of targets other than energy and forces."""
    datasets = {} if view.calibration is None else view.calibration.judged
    found = [
        (name, target, part)
        for name, report in datasets.items()
        for target, part in report.quantities()
        if part.n and target.name in report.others
    ]
    if not found:
        return None
    table = _grid(
        "test split: other targets", ("dataset", ""), ("target", ""), ("MAE", "right"), ("of nothing", "right"),
        ("coverage", "right"),
    )  # fmt: skip
    for name, target, part in found:
        nothing = significant(ratio(part.mae, part.null_mae))
        shown = percent(part.coverage_calibrated)
        table.add_row(Text(name), Text(target.label), headlines.in_unit(target, part.mae), nothing, shown)
    return table


def _failures(view: CampaignView, console: Console) -> None:
    if not view.failures:
        return
    failed = {stage.name for stage in view.stages if stage.status is StageStatus.FAILED}
    console.print(Text(f"last failures ({count(len(view.failures))} in all)", style="bold"))
    for failure in view.failures[-MOST_FAILURES:][::-1]:
        words = f"{failure.task}, attempt {failure.attempt}"
        kind = f" ({failure.kind}; {failure.then})" if failure.kind else ""
        line = Text.assemble(("✕ ", "red"), f"{words}: {failure.reason}{kind}")
        console.print(line, soft_wrap=True)
        if failure.task.split("/", 1)[0] in failed:  # not for stages that have recovered since
            for row in failure.table.splitlines():
                console.print(Text(f"    {row}"), soft_wrap=True)
        console.print(Text(f"  {failure.log}", style="bright_black"), soft_wrap=True)
