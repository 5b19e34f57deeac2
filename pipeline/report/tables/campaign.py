"""The facts of a campaign as tables of text; Markdown and HTML draw the same tables."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from io import StringIO

from gfm_pipeline.campaign.budget_standing import sentence
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, Target
from gfm_pipeline.report.energy import shown
from gfm_pipeline.report.stops import saved_cost
from gfm_pipeline.report.tables.candidates import best_objective, ranked
from gfm_pipeline.report.tables.headlines import in_unit, quantities
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import (
    MISSING,
    count,
    duration,
    flatten,
    moment,
    objective,
    percent,
    plain,
    ratio,
    short_count,
    significant,
    symbol,
)
from gfm_pipeline.report.view import CampaignView, StageView


def stages(view: CampaignView) -> Table:
    """Every stage with its state, tasks and time."""
    rows = []
    for stage in view.stages:
        known = "?" if stage.tasks_total is None else count(stage.tasks_total)
        wall = None if stage.started is None else (stage.ended or view.now) - stage.started
        rows.append(
            (
                stage.name,
                f"{symbol(stage.status)} {stage.status}",
                f"{count(stage.tasks_done)} / {known}",
                count(stage.tasks_running),
                count(stage.tasks_failed),
                duration(wall),
                duration(stage.busy_seconds) if stage.busy_seconds else MISSING,
                stage.detail,
            )
        )
    columns = (
        Column("Stage"), Column("Status"), Column("Tasks done", True), Column("Running", True),
        Column("Failed", True), Column("Wall time", True), Column("Task time", True), Column("Detail"),
    )  # fmt: skip
    return Table(columns, tuple(rows))


def accuracy(view: CampaignView) -> Table:
    """Test errors of the ensemble, of its best member, and of a model that learned nothing."""
    rows = tuple(
        (
            name, target.label, *(in_unit(target, x) for x in (q.mae, q.rmse, q.best_member_mae, q.null_mae)),
            significant(ratio(q.mae, q.null_mae)), count(q.n),
        )
        for name, target, q in quantities(view)
    )  # fmt: skip
    columns = (
        Column("Dataset"), Column("Quantity"), Column("MAE", True), Column("RMSE", True),
        Column("Best member MAE", True), Column("Learns nothing MAE", True), Column("MAE / nothing", True),
        Column("Entries", True),
    )  # fmt: skip
    return Table(columns, rows, "Test split, which training, selection and calibration do not use.")


def calibration(view: CampaignView) -> Table:
    """Uncertainty before and after calibration, on the test split."""
    rows = tuple(
        (
            name,
            target.label,
            f"{percent(q.coverage_raw)} → {percent(q.coverage_calibrated)} ± {percent(q.coverage_error)}",
            in_unit(target, q.interval_halfwidth),
            f"{significant(q.nll_raw)} → {significant(q.nll_calibrated)}",
            f"{significant(q.miscalibration_raw)} → {significant(q.miscalibration_calibrated)}",
            significant(q.rank_correlation),
            significant(q.scale),
            in_unit(target, q.floor),
            significant(q.quantile) + ("" if q.guaranteed else " *"),
        )
        for name, target, q in quantities(view)
    )
    level = percent(view.calibration.level, 0) if view.calibration else MISSING
    columns = (
        Column("Dataset"), Column("Quantity"), Column(f"Coverage of {level} intervals", True),
        Column("Mean half-width", True), Column("NLL", True), Column("Miscalibration area", True),
        Column("Rank correlation", True), Column("Scale", True), Column("Floor", True), Column("Quantile", True),
    )  # fmt: skip
    note = (
        "Raw → calibrated. ± is one standard error with whole trajectories as clusters. "
        "Rank correlation is Spearman's between spread and absolute error; calibration does not change it."
    )
    if any(not q.guaranteed for _, _, q in quantities(view)):
        note += " * Too few validation entries for the finite-sample guarantee at this level."
    return Table(columns, rows, note)


def members(view: CampaignView) -> Table:
    """Members of the ensemble with their validation errors and, after calibration, weights, per dataset."""
    names = list(dict.fromkeys(name for member in view.members for name in member.errors))
    targets = {name: _learned(view, name) for name in names}
    reports = {} if view.calibration is None else view.calibration.datasets
    weights = {name: report.weights for name, report in reports.items() if report.weights}
    rows = []
    for member in view.members:
        flat = flatten(member.settings)
        algorithm = next((plain(v) for k, v in flat.items() if k.rsplit(".", 1)[-1] == "algorithm"), MISSING)
        cells = [member.name, member.candidate, algorithm, f"{symbol(member.status)} {member.status}"]
        cells += [count(member.graphs), objective(member.objective)]
        for name in names:
            errors = member.errors.get(name)
            found = {} if errors is None else {error.target.name: error.mae for error in errors.by_target()}
            cells += [in_unit(target, found.get(target.name)) for target in targets[name]]
        cells += [_percentage(shares.get(member.name)) for shares in weights.values()]
        rows.append(tuple(cells))
    columns = [
        Column("Member"), Column("From"), Column("Algorithm"), Column("Status"), Column("Graphs", True),
        Column("Objective", True),
    ]  # fmt: skip
    for name in names:
        columns += [Column(f"{name}: {target.label}", True) for target in targets[name]]
    columns += [Column(f"{name}: weight", True) for name in weights]
    note = "Mean absolute errors on the validation split, averaged weights."
    if weights:
        note += " Weight: the member's share in the ensemble, the same for energies and forces, fitted on validation."
    return Table(tuple(columns), tuple(rows), note)


def _learned(view: CampaignView, dataset: str) -> list[Target]:
    """Return the validated targets of members, forces and energy first."""
    found = [m.errors[dataset].others.values() for m in view.members if dataset in m.errors]
    return list(dict.fromkeys((FORCES, ENERGY, *(error.target for errors in found for error in errors))))


def _percentage(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def failures(view: CampaignView) -> Table:
    """Failed attempts, newest first, with their logs."""
    rows = tuple(
        (f.task, str(f.attempt), f.kind or MISSING, f.reason, f.then or MISSING, f.log) for f in reversed(view.failures)
    )
    names = (Column("Task"), Column("Attempt", True), Column("Class"), Column("Reason"), Column("Then"), Column("Log"))
    return Table(names, rows)


def failure_tables(view: CampaignView) -> tuple[tuple[str, str], ...]:
    """Names and tables of failed attempts that wrote a table in addition to a sentence, newest first."""
    return tuple((f"{f.task}, attempt {f.attempt}", f.table) for f in reversed(view.failures) if f.table)


def summary(view: CampaignView) -> tuple[tuple[str, str], ...]:
    """Names and values of the header."""
    ends = [stage.ended for stage in view.stages if stage.ended is not None]
    done = bool(view.stages) and all(stage.status == "done" for stage in view.stages)
    facts: list[tuple[str, str]] = [
        ("Site", view.site),
        ("Driver", view.driver),
        ("Started", moment(view.created)),
        ("Finished" if done else "Last update", moment(max(ends) if done and ends else view.now)),
        ("Node-hours", significant(view.node_hours)),
    ]
    if view.energy.total is not None:
        facts.append(("Energy", shown(view.energy.total)))
    facts += [("Budget", sentence(standing)) for standing in view.budget]
    facts += [("gfm-pipeline", view.version), ("Workflow", view.workflow), ("Campaign folder", view.path)]
    return tuple(facts)


def overall(view: CampaignView) -> str:
    """Return done, failed, running, or stopped: the state of the whole campaign."""
    return overall_state(view.stages, view.driver_alive)


def overall_state(stages: Iterable[StageView], alive: bool) -> str:
    """Return the state of a campaign from the states of its stages; ``alive``: whether its driver is running."""
    states = [str(stage.status) for stage in stages]
    if "failed" in states:
        return "failed"
    if states and all(state == "done" for state in states):
        return "done"
    return "running" if alive else "stopped"


def search_line(view: CampaignView) -> str:
    """Return one line on the search as a whole."""
    ended = [c for c in view.candidates if c.status == "stopped"]
    graphs = sum(max((r.graphs for r in c.rungs), default=0) for c in view.candidates)
    waves = len({c.wave for c in view.candidates})
    best = ranked(view.candidates)
    values = [v for v in map(best_objective, best) if v is not None]
    line = f"{len(view.candidates)} candidates in {waves} wave{'s' if waves != 1 else ''}, {len(ended)} stopped early"
    line += f", {short_count(graphs)} graphs trained on"
    return line + (f"; best objective {min(values):.4f}." if values else ".")


def saved_line(view: CampaignView) -> str:
    """Return the savings of early stopping: graphs, and the time of tasks at each candidate's own speed."""
    search = view.resolved.get("search")
    rungs = search.get("rungs") if isinstance(search, dict) else None
    stopped = [c for c in view.candidates if c.status == "stopped" and c.rungs]
    if not rungs or not stopped:
        return ""
    left = [int(rungs[-1]) - c.rungs[-1].graphs for c in stopped]
    seconds = [n * sum(r.seconds for r in c.rungs) / c.rungs[-1].graphs for n, c in zip(left, stopped, strict=True)]
    every = int(rungs[-1]) * len(view.candidates)
    cost = saved_cost(c.stop for c in stopped if c.stop is not None)
    return (
        f"Stopping saved {short_count(sum(left))} graphs, {percent(sum(left) / every, 0)} of what all candidates would "
        f"have seen at the last rung, and {duration(sum(seconds))} of tasks at their own speed{cost}."
    )


def domain(view: CampaignView) -> Table:
    """Shares of structures of the test split and of test sets that are flagged as unlike the training data."""
    reports = {} if view.calibration is None else view.calibration.judged
    rows = tuple(
        (name, count(report.n_structures), percent(report.domain.found), percent(report.domain.false_alarms))
        for name, report in reports.items()
        if report.domain is not None
    )
    columns = (
        Column("Dataset"), Column("Test structures", True), Column("Out of domain", True),
        Column("At most, if like validation", True),
    )  # fmt: skip
    return Table(columns, rows, "By the distance to the training split in the models' own features.")


def settings_text(view: CampaignView) -> str:
    """Return the resolved settings as YAML, or an empty string."""
    if not view.resolved:
        return ""
    from ruamel.yaml import YAML  # here: `status` does not need this slow import

    stream, yaml = StringIO(), YAML()
    yaml.allow_unicode, yaml.width = True, 110
    yaml.dump(view.resolved, stream)
    return stream.getvalue()


def reproduce_text(view: CampaignView) -> str:
    """Return the commands that run this campaign again."""
    again = shlex.join(["gfm-pipeline", "run", view.workflow, *view.options])
    return f"# with gfm-pipeline {view.version}\n{again}"
