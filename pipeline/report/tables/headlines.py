"""The first table of each dataset: errors by target, and those of a model that learned nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from gfm_pipeline.core.contracts.data import is_test_set
from gfm_pipeline.core.contracts.evaluation import QuantityReport
from gfm_pipeline.core.contracts.targets import FORCES, Target
from gfm_pipeline.core.contracts.training_result import DatasetErrors, TargetError
from gfm_pipeline.report.text import (
    MISSING,
    count,
    milli,
    ratio,
    significant,
)
from gfm_pipeline.report.view import CampaignView

T = TypeVar("T")


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
    """The main result of a dataset.

    ``targets`` have labels; forces come first. ``level`` is the nominal coverage of intervals.
    ``source`` names the measurement: the ensemble on test, or the best member on validation so far.
    """

    dataset: str
    source: str
    targets: tuple[TargetHeadline, ...]
    level: float | None
    elements: str
    structures: str


def headlines(view: CampaignView) -> tuple[Headline, ...]:
    """Return one headline per dataset: from the calibrated ensemble, or, before that, from the best member."""
    cards = []
    statistics = {s.name: s for s in view.datasets}
    for name in dataset_names(view):
        facts = statistics.get(name)
        elements = " ".join(facts.elements) if facts else ""
        structures = count(sum(facts.n_structures.values())) if facts else MISSING
        if view.calibration is not None and name in view.calibration.judged:
            report = view.calibration.judged[name]
            targets = [_target_headline(t, part) for t, part in _forces_first(report.quantities()) if part.n]
            found = (
                f"ensemble, test {'set' if is_test_set(name) else 'split'} ({count(report.n_structures)} structures)"
            )
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
    """Return the mean absolute error in meV units; an empty text if the test split has no labels."""
    return milli(report.mae if report.n else None)


def _coverage(report: QuantityReport) -> tuple[float, float] | None:
    return (report.coverage_raw, report.coverage_calibrated) if report.n else None


def dataset_names(view: CampaignView) -> tuple[str, ...]:
    """Names of all known datasets, in the order of the workflow."""
    names = [s.name for s in view.datasets]
    names += [] if view.calibration is None else list(view.calibration.judged)
    names += [name for member in view.members for name in member.errors]
    return tuple(dict.fromkeys(names))


def quantities(view: CampaignView) -> list[tuple[str, Target, QuantityReport]]:
    """Return dataset, target and report of every calibrated target."""
    datasets = {} if view.calibration is None else view.calibration.judged
    return [(name, target, part) for name, report in datasets.items() for target, part in report.quantities() if part.n]


def in_unit(target: Target, value: float | None) -> str:
    """Return an error of a target in the unit of reports, with three significant digits."""
    return MISSING if value is None else significant(target.shown_factor * value)


def _forces_first_errors(errors: DatasetErrors) -> list[TargetError]:
    return sorted(errors.by_target(), key=lambda error: error.target.name != FORCES.name)


def _member_headline(error: TargetError) -> TargetHeadline:
    target = error.target
    return TargetHeadline(target.noun, in_unit(target, error.mae), target.printed_unit, error.ratio)
