"""The figures of the page with their captions, by section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.accuracy.split_errors import DrawnStructure, EnsembleErrors
from gfm_pipeline.core.contracts.evaluation import QuantityReport, figure_key
from gfm_pipeline.core.contracts.ingest.report import Histogram, IngestReport
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.report.figures import campaign as figures
from gfm_pipeline.report.figures import data as data_figures
from gfm_pipeline.report.figures import evaluation as evaluation_figures
from gfm_pipeline.report.figures import search, structures
from gfm_pipeline.report.hyperparameters import FOLDS, importances
from gfm_pipeline.report.tables.errors import worst_structures
from gfm_pipeline.report.tables.headlines import in_unit
from gfm_pipeline.report.text import count, percent
from gfm_pipeline.report.view import CampaignView

WEAK = 0.2  # share of the variance below which importances mean little
MOST_DRAWN = 24  # structures of a page; the table names the others


@dataclass(frozen=True)
class Panel:
    """A figure and its caption."""

    svg: Markup
    caption: str


def panels_of(*pairs: tuple[str | None, str]) -> list[Panel]:
    """Return the figures that could be drawn, with their captions."""
    # matplotlib escapes every text in an SVG, so the element is safe.
    return [Panel(Markup(svg), caption) for svg, caption in pairs if svg is not None]  # noqa: S704


def of_search(view: CampaignView) -> list[Panel]:
    """Return the figures of the search."""
    return panels_of(
        (
            figures.search_progress(view),
            "Each point is a finished rung of one candidate; the line is the best so far.",
        ),
        (
            figures.candidate_curves(view),
            "Validation during the search; dotted lines are rungs. Grey ones ended early, where the cross is; their "
            "evidence is in the table.",
        ),
        *_importances(view),
        (
            search.pareto(view),
            "Energy of all attempts at each candidate up to its last rung. No candidate below the front's line took as "
            "little energy.",
        ),
    )


def of_hyperparameters(view: CampaignView) -> list[Panel]:
    """Return the figure of all hyperparameters beside each other."""
    return panels_of(
        (
            search.parallel_coordinates(view),
            "Each line is a candidate. Its objective, at the right, is that of the last rung it reached: those that "
            "were stopped have seen fewer graphs. A value below an axis: the candidate has no such hyperparameter. Of "
            f"the members, of the best, and of the others, at most {count(search.MOST_LINES)} are drawn.",
        )
    )


def _importances(view: CampaignView) -> list[tuple[str | None, str]]:
    found = importances(view.candidates)
    if found is None:
        return []
    weak = "" if found.r2 > WEAK else " That is too little to tell them apart."
    caption = (
        f"Permutation importance in extra trees, on candidates the trees were not fitted to ({FOLDS} folds, "
        f"{count(found.n)} candidates at the first rung). The trees predict {percent(max(found.r2, 0.0), 0)} of the "
        f"variance of the objective's logarithm.{weak}"
    )
    return [(search.importance_bars(found), caption)]


def of_members(view: CampaignView) -> list[Panel]:
    """Return the figures of the members of the ensemble."""
    return panels_of(
        (
            figures.member_curves(view),
            "Each member trains on until it stops improving; its rate is then annealed to zero.",
        ),
        (figures.member_errors(view), "Members beside each other; 1 would be a model that learned nothing."),
    )


def of_evaluation(view: CampaignView, evaluation: Mapping[str, NDArray[np.float64]]) -> list[tuple[str, list[Panel]]]:
    """Return the figures of each dataset's test split."""
    found = []
    for i, (name, report) in enumerate({} if view.calibration is None else view.calibration.judged.items()):
        level = view.calibration.level if view.calibration else 0.0
        drawn: list[Panel] = []
        for target, part in report.quantities():
            drawn += _quantity(evaluation, name, target, part, level, f"d{i}-{target.name}")
        if drawn:
            found.append((name, drawn))
    return found


def _quantity(
    evaluation: Mapping[str, NDArray[np.float64]],
    dataset: str,
    target: Target,
    report: QuantityReport,
    level: float,
    key: str,
) -> list[Panel]:
    interval = (level, report.coverage_calibrated)
    drawn = evaluation.get(figure_key(dataset, target.name, "label"), ())
    return panels_of(
        (
            evaluation_figures.parity(
                evaluation, dataset, target, f"parity-{key}", report.mae, whole=report.n == len(drawn)
            ),
            f"{count(len(drawn))} of {count(report.n)} entries of the test split are drawn; the error is that of all.",
        ),
        (
            evaluation_figures.calibration_curve(evaluation, dataset, target, f"curve-{key}", interval),
            f"Area to the diagonal {report.miscalibration_raw:.3f} before, "
            f"{report.miscalibration_calibrated:.3f} after; {percent(level, 0)} intervals "
            f"covered {percent(report.coverage_raw)} before.",
        ),
        (
            evaluation_figures.spread_and_error(evaluation, dataset, target, f"spread-{key}"),
            "On the diagonal the stated deviation is the error found; bins hold equally many entries. "
            f"Rank correlation {report.rank_correlation:.2f}.",
        ),
    )


def of_data(name: str, numbers: IngestReport, key: str) -> list[Panel]:
    """Return the figures of what ingest found in a source."""
    return panels_of(
        (data_figures.elements(numbers, name, f"{key}-elements"), "All splits together."),
        (data_figures.sizes(numbers, name, f"{key}-sizes"), f"{count(numbers.structures)} structures."),
        (
            data_figures.energies(numbers, name, f"{key}-energies"),
            _counted(numbers.energies, numbers.structures, "structures"),
        ),
        (
            data_figures.forces(numbers, name, f"{key}-forces"),
            _counted(numbers.forces, numbers.components, "components"),
        ),
    )


def _counted(histogram: Histogram, whole: int, what: str) -> str:
    drawn = sum(histogram.counts)
    of = (
        f"{count(whole)} {what}" if drawn >= whole else f"{count(drawn)} of {count(whole)} {what}, first of every split"
    )
    return f"{of}; the outermost bars hold what lies beyond."


def of_worst(view: CampaignView, errors: EnsembleErrors | None) -> list[Panel]:
    """Return drawings of the structures with the largest errors."""
    found = islice(worst_structures(view, errors), MOST_DRAWN)
    return [_worst(f"{dataset}: {one.formula}", target, one) for dataset, target, one in found]


def _worst(name: str, target: Target, one: DrawnStructure) -> Panel:
    unit = target.printed_unit
    caption = f"{name}, {one.origin}. {target.noun.capitalize()} off by {in_unit(target, one.error)} {unit}"
    if one.halfwidth is not None:
        caption += f", interval ± {in_unit(target, one.halfwidth)}"
    if one.atom is not None:
        caption += f", at the atom with the ring ({one.symbols[one.atom]})"
    caption += {None: ".", True: "; in domain.", False: "; out of domain."}[one.in_domain]
    if len(one.symbols) < one.natoms:
        caption += f" {count(len(one.symbols))} of {count(one.natoms)} atoms are drawn."
    return panels_of((structures.draw(one, caption), caption))[0]
