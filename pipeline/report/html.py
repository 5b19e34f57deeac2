"""The report as one self-contained HTML page, with styles, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.accuracy.split_errors import EnsembleErrors
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.report.figures import panels
from gfm_pipeline.report.figures.panels import Panel
from gfm_pipeline.report.html_table import render_table
from gfm_pipeline.report.sources import Found
from gfm_pipeline.report.summary import doubts, remarks
from gfm_pipeline.report.tables import campaign as tables
from gfm_pipeline.report.tables import candidates as candidate_tables
from gfm_pipeline.report.tables import data as data_tables
from gfm_pipeline.report.tables import energy as energy_tables
from gfm_pipeline.report.tables import errors as error_tables
from gfm_pipeline.report.tables import headlines, provenance
from gfm_pipeline.report.tables import uncertainty as uncertainty_tables
from gfm_pipeline.report.tables.table import Table
from gfm_pipeline.report.text import MISSING, count, duration, moment, symbol
from gfm_pipeline.report.timeline import AttemptBar, draw, hosts
from gfm_pipeline.report.view import CampaignView, StageStatus, StageView

_TICKS = 5


@dataclass(frozen=True)
class _StageCard:
    name: str
    status: str
    symbol: str
    percent: int
    tasks: str
    wall: str
    detail: str


@dataclass(frozen=True)
class _DataSection:
    name: str
    line: str
    set_aside: Table
    label_keys: Table
    figures: list[Panel]
    note: str


@dataclass(frozen=True)
class _Bar:
    name: str
    status: str
    left: str
    width: str
    wall: str


def _template(name: str) -> str:
    return (resources.files("gfm_pipeline.report") / "templates" / name).read_text(encoding="utf-8")


def environment() -> Environment:
    """Return the templates of pages; they escape every text."""
    found = Environment(loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    found.globals["table"] = render_table
    return found


def styles() -> Markup:
    """Return the style sheet of pages."""
    return Markup(_template("report.css"))  # noqa: S704 - our own file


def render_html(
    view: CampaignView,
    evaluation: Mapping[str, NDArray[Any]] | None = None,
    found: Mapping[str, Found] | None = None,
    attempts: Sequence[AttemptBar] = (),
    errors: EnsembleErrors | None = None,
) -> str:
    """Return the report of a campaign, finished or not.

    Parameters
    ----------
    view
        The facts.
    evaluation
        Arrays of the ensemble's ``evaluation.npz`` (`core.contracts.evaluation.figure_key`); None before there is one.
    found
        Ingest's files of every dataset (`report.sources.load_found`); None: do not show them.
    attempts
        Times and nodes of attempts (`report.timeline.load_timeline`).
    errors
        Errors of groups of the test split (`report.ensemble_files.load_split_errors`); None: not recorded.
    """
    found = {} if found is None else found
    bars, ticks = _gantt(view)
    content = {
        "view": view,
        "css": styles(),
        "overall": tables.overall(view),
        "overall_symbol": symbol(tables.overall(view)),
        "summary": tables.summary(view),
        "stages": [_stage_card(stage, view.now) for stage in view.stages],
        "stage_table": tables.stages(view),
        "headlines": headlines.headlines(view),
        "doubts": doubts(view),
        "remarks": remarks(view),
        "saved": tables.saved_line(view),
        "domain": tables.domain(view),
        "scores": uncertainty_tables.scores(view),
        "groups": uncertainty_tables.groups(view, errors),
        "timeline": _drawn(attempts),
        "provenance": provenance.data_provenance(view),
        "made_with": provenance.made_with(view, hosts(attempts)),
        "citations": provenance.citations(view),
        "script": Markup(_template("report.js")),  # noqa: S704 - our own file
        "absent": MISSING,
        "candidates": candidate_tables.candidates(view),
        "search_line": tables.search_line(view),
        "search_figures": panels.of_search(view),
        "hyperparameters": panels.of_hyperparameters(view),
        "members": tables.members(view),
        "member_figures": panels.of_members(view),
        "accuracy": tables.accuracy(view),
        "calibration": tables.calibration(view),
        "evaluation": [] if evaluation is None else panels.of_evaluation(view, evaluation),
        "errors": error_tables.by_group(view, errors),
        "no_errors": error_tables.NONE_RECORDED if errors is None else "",
        "domain_groups": error_tables.domain_by_group(view, errors),
        "worst": error_tables.worst(view, errors),
        "worst_figures": panels.of_worst(view, errors),
        "datasets": data_tables.datasets(view),
        "sources": data_tables.sources(view),
        "all_joined": all(source.status is StageStatus.DONE for source in view.sources),
        "found": [_data_section(facts, found.get(facts.name), k) for k, facts in enumerate(view.datasets)],
        "label_warnings": data_tables.label_warnings(view),
        "gantt": bars,
        "ticks": ticks,
        "energy": energy_tables.energy(view),
        "planned": energy_tables.planned(view),
        "failures": tables.failures(view),
        "failure_tables": tables.failure_tables(view),
        "settings": tables.settings_text(view),
        "reproduce": tables.reproduce_text(view),
        "written": moment(view.now),
    }  # fmt: skip
    return environment().get_template("report.html.j2").render(content).lstrip()


def _drawn(attempts: Sequence[AttemptBar]) -> Markup | None:
    svg = draw(attempts)
    return None if svg is None else Markup(svg)  # noqa: S704 - it escapes every text


def _data_section(facts: DatasetStatistics, found: Found | None, number: int) -> _DataSection:
    numbers = found.numbers if found is not None else None
    return _DataSection(
        facts.name,
        data_tables.set_aside_line(facts, found),
        data_tables.set_aside(facts, found),
        data_tables.label_keys(found),
        [] if numbers is None else panels.of_data(facts.name, numbers, f"data{number}"),
        "" if found is None else data_tables.found_line(found),
    )


def _stage_card(stage: StageView, now: float) -> _StageCard:
    total = stage.tasks_total
    done = 100 if stage.status == "done" else 0 if not total else round(100 * stage.tasks_done / total)
    tasks = f"{count(stage.tasks_done)} of {'?' if total is None else count(total)}"
    tasks += f", {count(stage.tasks_running)} running" if stage.tasks_running else ""
    tasks += f", {count(stage.tasks_failed)} failed" if stage.tasks_failed else ""
    wall = None if stage.started is None else (stage.ended or now) - stage.started
    return _StageCard(
        stage.name, str(stage.status), symbol(stage.status), min(100, done), tasks, duration(wall), stage.detail
    )


def _gantt(view: CampaignView) -> tuple[list[_Bar], list[str]]:
    started = [(s, s.started, s.ended or view.now) for s in view.stages if s.started is not None]
    if not started:
        return [], []
    first, last = min(a for _, a, _ in started), max(b for _, _, b in started)
    span = max(last - first, 1e-9)
    bars = [
        _Bar(s.name, str(s.status), f"{100 * (a - first) / span:.2f}", f"{100 * (b - a) / span:.2f}", duration(b - a))
        for s, a, b in started
    ]
    return bars, ["0"] + [duration(span * i / _TICKS) for i in range(1, _TICKS + 1)]
