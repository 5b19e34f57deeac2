"""The report as Markdown: the facts of the HTML page as tables."""

from __future__ import annotations

import html
from collections.abc import Mapping

from gfm_pipeline.core.contracts.accuracy.split_errors import EnsembleErrors
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
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
from gfm_pipeline.report.text import moment, percent, significant, symbol
from gfm_pipeline.report.view import CampaignView, StageStatus

_SPECIAL = str.maketrans({"|": "\\|", "`": "\\`", "\n": " ", "\r": " ", "*": "\\*", "_": "\\_", "[": "\\[", "]": "\\]"})


def render_markdown(
    view: CampaignView, found: Mapping[str, Found] | None = None, errors: EnsembleErrors | None = None
) -> str:
    """Return the report of a campaign as Markdown (GitHub's tables), finished or not.

    ``found`` are ingest's files of every dataset (`report.sources.load_found`); a separate file, which the report
    names, contains the histograms. ``errors`` are those of groups of the test split (`report.ensemble_files`).
    """
    state = tables.overall(view)
    parts = [f"# {_text(view.name)}", f"{symbol(state)} **{state}**"]
    parts.append("\n".join(f"- {name}: {_text(value)}" for name, value in tables.summary(view)))
    parts += ["## Stages", _table(tables.stages(view), "No stage is known yet.")]
    parts.append("## Results")
    parts += [f"**WARNING** {_text(sentence)}" for sentence in doubts(view)]
    parts += [_text(sentence) for sentence in remarks(view)]
    parts.append(_headlines(view))
    parts.append("## Search")
    if view.candidates:
        parts.append(f"{tables.search_line(view)} {tables.saved_line(view)}".rstrip())
    parts.append(_table(candidate_tables.candidates(view), "No candidate has been proposed yet."))
    parts += ["## Ensemble", _table(tables.members(view), "The ensemble has not been chosen yet.")]
    later = "Appears once the ensemble is calibrated."
    parts += ["## Accuracy", _table(tables.accuracy(view), later)]
    parts += ["## Uncertainty", _table(tables.calibration(view), later)]
    parts += [
        _table(t, "") for t in (uncertainty_tables.scores(view), uncertainty_tables.groups(view, errors)) if t.rows
    ]
    if view.calibration is not None:
        without = error_tables.NONE_RECORDED
        parts += [
            "### Errors by element, size, config type, group and file",
            _table(error_tables.by_group(view, errors), without),
        ]
        found_far = error_tables.domain_by_group(view, errors)
        parts += ["### Structures in domain", _table(found_far, "")] if found_far.rows else []
        parts += ["### Largest errors", _table(error_tables.worst(view, errors), without)]
    parts += ["## Data", _table(data_tables.datasets(view), "No dataset has been assembled yet.")]
    if (warned := data_tables.label_warnings(view)).rows:
        parts += ["### Warnings about labels", _table(warned, "None.")]
    if any(source.status is not StageStatus.DONE for source in view.sources):
        parts += ["### Read so far", _table(data_tables.sources(view), "Nothing.")]
    for facts in view.datasets:
        parts += _what_ingest_found(facts, None if found is None else found.get(facts.name))
    parts += [
        "## Energy",
        _table(energy_tables.energy(view), "The energy is unknown: there are no counters and no power model."),
    ]
    if (planned := energy_tables.planned(view)).rows:
        parts += ["### Plan and use", _table(planned, "")]
    parts += ["## Failures", _table(tables.failures(view), "No attempt has failed.")]
    for name, text in tables.failure_tables(view):
        parts += [f"### {_text(name)}", _fenced(text, "text")]
    parts += ["## Provenance", _table(provenance.data_provenance(view), "The settings are not recorded.")]
    parts.append("\n".join(f"- {_text(text)}" for text in provenance.citations(view)))
    parts += ["## Reproduce", _fenced(tables.reproduce_text(view), "sh")]
    if settings := tables.settings_text(view):
        parts += ["### Resolved settings", _fenced(settings.rstrip(), "yaml")]
    parts.append(f"Written by gfm-pipeline {_text(view.version)} on {moment(view.now)}.")
    return "\n\n".join(parts) + "\n"


def _what_ingest_found(facts: DatasetStatistics, found: Found | None) -> list[str]:
    parts = [f"### What ingest found: {_text(facts.name)}", _text(data_tables.set_aside_line(facts, found))]
    if (reasons := data_tables.set_aside(facts, found)).rows:
        parts.append(_table(reasons, "None."))
    if (keys := data_tables.label_keys(found)).rows:
        parts += [f"#### Labels and metadata: {_text(facts.name)}", _table(keys, "None.")]
    if found is not None:
        parts.append(_text(data_tables.found_line(found)))
    return parts


def _headlines(view: CampaignView) -> str:
    cards = headlines.headlines(view)
    if not cards:
        return "No model has been validated yet."
    lines = []
    for card in cards:
        sentences = []
        for one in card.targets:
            of_nothing = f" ({significant(one.ratio)} of learning nothing)" if one.ratio is not None else ""
            sentences.append(f"{one.name} MAE {one.mae} {one.unit}".rstrip() + of_nothing)
        line = f"- **{_text(card.dataset)}** ({_text(card.source)}): {', '.join(sentences)}"
        for one in card.targets:
            if one.coverage is not None:
                before, after = map(percent, one.coverage)
                line += (
                    f"; {percent(card.level, 0)} {one.name} intervals cover {before} before and {after} after "
                    "calibration"
                )
        lines.append(line + ".")
    return "\n".join(lines)


def _table(table: Table, without: str) -> str:
    if not table.rows:
        return without
    lines = [
        "| " + " | ".join(_text(column.title) for column in table.columns) + " |",
        "|" + "|".join(" ---: " if column.numeric else " --- " for column in table.columns) + "|",
        *("| " + " | ".join(_text(cell) for cell in row) + " |" for row in table.rows),
    ]
    return "\n".join(lines) + (f"\n\n{_text(table.note)}" if table.note else "")


def _text(value: str) -> str:
    return html.escape(value, quote=False).translate(_SPECIAL)


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
