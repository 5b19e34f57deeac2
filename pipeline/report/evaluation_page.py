"""The answer of ``evaluate`` as one self-contained HTML page: errors, figures, the worst structures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.deploy import FIGURES_FILE, TARGETS_FILE, PredictFacts
from gfm_pipeline.core.contracts.evaluation import figure_key
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.core.records import read_record
from gfm_pipeline.report.figures import evaluation as figures
from gfm_pipeline.report.figures.panels import Panel, panels_of
from gfm_pipeline.report.html import environment, styles
from gfm_pipeline.report.tables.headlines import in_unit
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import count, percent


def evaluation_page(facts: PredictFacts, folder: Path, model: Path) -> str:
    """Return the page.

    Parameters
    ----------
    facts
        The answer of the program.
    folder
        The arrays of the figures, of a sample of the entries, and the targets (`PredictFilesSpec.figures`).
    model
        The campaign, folder or file that predicted.
    """
    with np.load(folder / FIGURES_FILE, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    targets = {target.name: target for target in read_record(tuple[Target, ...], folder / TARGETS_FILE)}
    shown = [
        (target.heading, _panels(facts, arrays, target, f"t{k}"))
        for k, target in enumerate(targets.values())
        if figure_key(facts.dataset, target.name, "label") in arrays
    ]
    content = {
        "facts": facts,
        "model": model.name,
        "css": styles(),
        "errors": _errors(facts, targets),
        "worst": _worst(facts, targets),
        "figures": shown,
        "notes": _notes(facts),
    }
    return environment().get_template("evaluation.html.j2").render(content).lstrip()


def _panels(facts: PredictFacts, arrays: Mapping[str, NDArray[Any]], target: Target, key: str) -> list[Panel]:
    whole = next(e for e in facts.errors if e.target == target.name and e.by == "all")
    drawn = len(arrays[figure_key(facts.dataset, target.name, "label")])
    interval = None if facts.level is None or whole.coverage is None else (facts.level, whole.coverage)
    return panels_of(
        (
            figures.parity(arrays, facts.dataset, target, f"parity-{key}", whole.mae),
            f"{count(drawn)} of {count(whole.entries)} entries are drawn; the error is that of all.",
        ),
        (
            figures.calibration_curve(arrays, facts.dataset, target, f"curve-{key}", interval),
            "The calibrated deviation of an entry is that of the normal distribution with its interval.",
        ),
        (
            figures.spread_and_error(arrays, facts.dataset, target, f"spread-{key}"),
            "On the diagonal, the stated deviation is the error found; bins hold equally many entries.",
        ),
    )


def _errors(facts: PredictFacts, targets: Mapping[str, Target]) -> Table:
    columns = (
        Column("Quantity"), Column("By"), Column("Group"), Column("Entries", True), Column("MAE", True),
        Column("RMSE", True), Column("Intervals cover", True),
    )  # fmt: skip
    rows = []
    for one in sorted(facts.errors, key=lambda e: (e.target, e.by != "all", e.by, -e.entries)):
        target = targets[one.target]
        covered = "" if one.coverage is None else percent(one.coverage)
        covered += "" if one.coverage_error is None else f" ± {percent(one.coverage_error)}"
        errors = in_unit(target, one.mae), in_unit(target, one.rmse)
        rows.append((target.label, one.by, one.group, count(one.entries), *errors, covered))
    return Table(columns, tuple(rows), "± is one standard error; entries of one structure depend on each other.")


def _worst(facts: PredictFacts, targets: Mapping[str, Target]) -> Table:
    columns = Column("Quantity"), Column("Error", True), Column("Formula"), Column("File"), Column("Record", True)
    rows = tuple(
        (targets[w.target].label, in_unit(targets[w.target], w.error), w.formula, w.file, count(w.record))
        for w in facts.worst
    )
    return Table(columns, rows)


def _notes(facts: PredictFacts) -> list[str]:
    notes = [f"{count(n)} structures: {sentence}" for sentence, n in facts.warnings.items()]
    if facts.outside:
        notes.append(f"{count(facts.outside)} structures are unlike the training data.")
    if facts.unlabelled:
        notes.append(f"{count(facts.unlabelled)} structures have no label and do not count.")
    if facts.n_refused:
        notes.append(f"{count(facts.n_refused)} structures have no prediction. {' '.join(facts.refused)}")
    return notes
