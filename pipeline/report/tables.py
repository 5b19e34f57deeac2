"""The facts of a campaign as tables of text; Markdown and HTML draw the same ones."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from typing import Any, TypeVar

from gfm_pipeline.campaign.budget_standing import sentence
from gfm_pipeline.core.contracts.evaluation import QuantityReport
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, Target
from gfm_pipeline.core.contracts.training import DatasetErrors, TargetError
from gfm_pipeline.report.energy import shown
from gfm_pipeline.report.text import (
    MISSING,
    count,
    duration,
    flatten,
    milli,
    moment,
    objective,
    percent,
    plain,
    ratio,
    short_count,
    significant,
    symbol,
)
from gfm_pipeline.report.view import CampaignView, CandidateView

T = TypeVar("T")
_STATUS_ORDER = {"selected": 0, "running": 1, "finished": 2, "stopped": 3, "diverged": 4, "failed": 5}
_ABBREVIATED = {"learning rate": "lr", "batch size": "batch", "force weight": "force"}


@dataclass(frozen=True)
class Column:
    """A column's title, and whether it holds numbers (drawn to the right)."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under columns; ``note`` is one line below."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class TargetHeadline:
    """The error of one target.

    ``mae`` is text in ``unit``; ``ratio`` is the error over that of a model that learned nothing. ``coverage`` are the
    shares of labels inside the intervals, before and after calibration.
    """

    name: str
    mae: str
    unit: str
    ratio: float | None
    coverage: tuple[float, float] | None = None


@dataclass(frozen=True)
class Headline:
    """The first thing to know of a dataset.

    ``targets`` are those that have labels, forces first. Intervals are meant to cover ``level``.
    ``source`` says what was measured: the ensemble on test, or the best member on validation so far.
    """

    dataset: str
    source: str
    targets: tuple[TargetHeadline, ...]
    level: float | None
    elements: str
    structures: str


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


def headlines(view: CampaignView) -> tuple[Headline, ...]:
    """One per dataset: from the calibrated ensemble, or, before there is one, from the best member."""
    cards = []
    statistics = {s.name: s for s in view.datasets}
    for name in dataset_names(view):
        facts = statistics.get(name)
        elements = " ".join(facts.elements) if facts else ""
        structures = count(sum(facts.n_structures.values())) if facts else MISSING
        if view.calibration is not None and name in view.calibration.datasets:
            report = view.calibration.datasets[name]
            targets = [_target_headline(t, part) for t, part in _forces_first(report.quantities()) if part.n]
            found = f"ensemble, test split ({count(report.n_structures)} structures)"
            cards.append(Headline(name, found, tuple(targets), view.calibration.level, elements, structures))
            continue
        members = [m for m in view.members if name in m.errors]
        if members:
            best = min(members, key=lambda m: [error.mae for error in _forces_first_errors(m.errors[name])])
            of_targets = tuple(_member_headline(error) for error in _forces_first_errors(best.errors[name]))
            found = f"best member so far ({best.name}), validation split"
            cards.append(Headline(name, found, of_targets, None, elements, structures))
    return tuple(cards)


def _forces_first(found: Iterable[tuple[Target, T]]) -> list[tuple[Target, T]]:
    return sorted(found, key=lambda pair: pair[0].name != FORCES.name)


def _target_headline(target: Target, part: QuantityReport) -> TargetHeadline:
    nothing = ratio(part.mae, part.null_mae)
    return TargetHeadline(target.noun, in_unit(target, part.mae), target.printed_unit, nothing, _coverage(part))


def mae(report: QuantityReport) -> str:
    """Return the mean absolute error in meV units; nothing where the test split has no labels."""
    return milli(report.mae if report.n else None)


def _forces_first_errors(errors: DatasetErrors) -> list[TargetError]:
    return sorted(errors.by_target(), key=lambda error: error.target.name != FORCES.name)


def _member_headline(error: TargetError) -> TargetHeadline:
    target = error.target
    return TargetHeadline(target.noun, in_unit(target, error.mae), target.printed_unit, error.ratio)


def _coverage(report: QuantityReport) -> tuple[float, float] | None:
    return (report.coverage_raw, report.coverage_calibrated) if report.n else None


def dataset_names(view: CampaignView) -> tuple[str, ...]:
    """Names of all datasets anything is known of, in the order of the workflow."""
    names = [s.name for s in view.datasets]
    names += [] if view.calibration is None else list(view.calibration.datasets)
    names += [name for member in view.members for name in member.errors]
    return tuple(dict.fromkeys(names))


def _quantities(view: CampaignView) -> list[tuple[str, Target, QuantityReport]]:
    datasets = {} if view.calibration is None else view.calibration.datasets
    return [(name, target, part) for name, report in datasets.items() for target, part in report.quantities() if part.n]


def in_unit(target: Target, value: float | None) -> str:
    """Return an error of a target in the unit that reports print, three significant digits."""
    return MISSING if value is None else significant(target.shown_factor * value)


def accuracy(view: CampaignView) -> Table:
    """Test errors of the ensemble beside its best member and a model that learned nothing."""
    rows = tuple(
        (
            name, target.label, *(in_unit(target, x) for x in (q.mae, q.rmse, q.best_member_mae, q.null_mae)),
            significant(ratio(q.mae, q.null_mae)), count(q.n),
        )
        for name, target, q in _quantities(view)
    )  # fmt: skip
    columns = (
        Column("Dataset"), Column("Quantity"), Column("MAE", True), Column("RMSE", True),
        Column("Best member MAE", True), Column("Learns nothing MAE", True), Column("MAE / nothing", True),
        Column("Entries", True),
    )  # fmt: skip
    return Table(columns, rows, "Test split, which neither training, nor selection, nor calibration has seen.")


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
        for name, target, q in _quantities(view)
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
    if any(not q.guaranteed for _, _, q in _quantities(view)):
        note += " * Too few validation entries for the finite-sample guarantee at this level."
    return Table(columns, rows, note)


def candidate_settings(candidates: tuple[CandidateView, ...]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Split settings into what all candidates share (as text) and what differs, flattened, one dict a candidate."""
    flat = [flatten(c.settings) for c in candidates]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    shared = {
        key: plain(flat[0][key])
        for key in keys
        if len(flat) > 1 and all(key in one for one in flat) and len({plain(one[key]) for one in flat}) == 1
    }
    return shared, [{key: value for key, value in one.items() if key not in shared} for one in flat]


def _short_names(keys: list[str]) -> dict[str, str]:
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {
        key: (short if last.count(short) == 1 else key).replace("_", " ") for key, short in zip(keys, last, strict=True)
    }


def one_line(settings: dict[str, Any]) -> str:
    """Return flattened settings in one line: names without their section, the algorithm first and unnamed."""
    names = {key: _ABBREVIATED.get(name, name) for key, name in _short_names(list(settings)).items()}
    first = [plain(value) for key, value in settings.items() if names[key] == "algorithm"]
    return " ".join(first + [f"{names[key]} {plain(v)}" for key, v in settings.items() if names[key] != "algorithm"])


def best_objective(candidate: CandidateView) -> float | None:
    """Return the objective of the last rung that has one."""
    values = [rung.objective for rung in candidate.rungs if rung.objective is not None]
    return values[-1] if values else None


def ranked(candidates: tuple[CandidateView, ...]) -> tuple[CandidateView, ...]:
    """Best first: selected ones, then who came furthest, then by objective."""

    def key(candidate: CandidateView) -> tuple[float, ...]:
        value = best_objective(candidate)
        status = _STATUS_ORDER.get(candidate.status, 9)
        return (status, -len(candidate.rungs), float("inf") if value is None else value)

    return tuple(sorted(candidates, key=key))


def candidates(view: CampaignView) -> Table:
    """Every candidate with its hyperparameters, rungs, and why it ended."""
    order = ranked(view.candidates)
    shared, own = candidate_settings(order)
    keys = list(dict.fromkeys(key for one in own for key in one))
    names = _short_names(keys)
    rows = []
    for candidate, settings in zip(order, own, strict=True):
        rungs = " → ".join(objective(r.objective, 3) for r in candidate.rungs) or MISSING
        graphs = short_count(candidate.rungs[-1].graphs) if candidate.rungs else MISSING
        rows.append(
            (
                candidate.name,
                str(candidate.wave),
                *(plain(settings.get(key)) for key in keys),
                rungs,
                graphs,
                duration(sum(r.seconds for r in candidate.rungs)) if candidate.rungs else MISSING,
                shown(candidate.energy),
                MISSING if candidate.joules_per_graph is None else significant(candidate.joules_per_graph),
                f"{symbol(candidate.status)} {candidate.status}",
                candidate.outcome or (f"running {candidate.running_task}" if candidate.running_task else MISSING),
            )
        )
    values = [plain(one.get(key)) for one in own for key in keys]
    numeric = {key: all(_is_number(one.get(key)) for one in own) for key in keys} if values else {}
    columns = (
        Column("Candidate"), Column("Wave", True),
        *(Column(names[key][:1].upper() + names[key][1:], numeric[key]) for key in keys),
        Column("Objective at each rung"), Column("Graphs", True), Column("Task time", True), Column("Energy", True),
        Column("J per graph", True), Column("Status"), Column("Outcome and evidence"),
    )  # fmt: skip
    note = "Objective: mean of errors over those of a model that learned nothing; 1 is nothing learned, 0 perfect."
    if shared:
        names = _short_names(list(shared))
        note += " The same in all: " + ", ".join(f"{names[k]} {v}" for k, v in shared.items()) + "."
    return Table(columns, tuple(rows), note)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def members(view: CampaignView) -> Table:
    """Members of the ensemble with their validation errors and, once calibrated, weights, a dataset each."""
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
    """Return the targets that members were validated on, forces and energy first."""
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
    """Name of every failed attempt that left a table beside its sentence, and the table, newest first."""
    return tuple((f"{f.task}, attempt {f.attempt}", f.table) for f in reversed(view.failures) if f.table)


def summary(view: CampaignView) -> tuple[tuple[str, str], ...]:
    """Name and value of what the header says."""
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
    states = [str(stage.status) for stage in view.stages]
    if "failed" in states:
        return "failed"
    if states and all(state == "done" for state in states):
        return "done"
    return "running" if view.driver_alive else "stopped"


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


def settings_text(view: CampaignView) -> str:
    """Return the resolved settings as YAML, or an empty string."""
    if not view.resolved:
        return ""
    from ruamel.yaml import YAML  # here, so that `status` does not wait for it

    stream, yaml = StringIO(), YAML()
    yaml.allow_unicode, yaml.width = True, 110
    yaml.dump(view.resolved, stream)
    return stream.getvalue()


def reproduce_text(view: CampaignView) -> str:
    """Return the commands that run this campaign again."""
    again = shlex.join(["gfm-pipeline", "run", view.workflow, *view.options])
    return f"# with gfm-pipeline {view.version}\n{again}"
