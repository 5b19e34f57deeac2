"""Tables of errors on parts of the test split: by element, size, config type, group and file."""

from __future__ import annotations

from collections.abc import Iterator

from gfm_pipeline.core.contracts.accuracy.split_errors import DrawnStructure, EnsembleErrors, SplitErrors
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.report.tables.headlines import in_unit
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import MISSING, count, percent
from gfm_pipeline.report.view import CampaignView

HEADING = "Errors by element, size, config type, group and file"
NONE_RECORDED = (
    f"{HEADING} are not recorded: the ensemble is of an earlier version. "
    "`gfm-pipeline evaluate` gives them for files with labels."
)


def by_group(view: CampaignView, errors: EnsembleErrors | None) -> Table:
    """Return the errors of each target on each part of the test split."""
    rows = tuple(
        (
            name, target.label, row.by, row.group, count(row.structures), count(row.n),
            *(in_unit(target, x) for x in (row.mae, row.rmse, row.largest)),
            percent(row.coverage) + ("" if row.coverage_error is None else f" ± {percent(row.coverage_error)}"),
        )
        for name, found, targets in _datasets(view, errors)
        for row in found.groups
        if (target := targets.get(row.target)) is not None
    )  # fmt: skip
    columns = (
        Column("Dataset"), Column("Quantity"), Column("By"), Column("Group"), Column("Structures", True),
        Column("Entries", True), Column("MAE", True), Column("RMSE", True), Column("Largest", True),
        Column("Coverage", True),
    )  # fmt: skip
    note = (
        "Test split. Energies count for each element that a structure contains, forces for the element of the atom. "
        "± is one standard error with whole trajectories as clusters; a single one has none."
    )
    for name, found, _ in _datasets(view, errors):
        note += "".join(
            f" {name}: {count(n)} more by {by}, the smallest, have no row." for by, n in found.left_out.items()
        )
    return Table(columns, rows, note)


def domain_by_group(view: CampaignView, errors: EnsembleErrors | None) -> Table:
    """Return the share of each part of the test split that is in domain."""
    rows = tuple(
        (name, row.by, row.group, count(row.structures), percent(1.0 - row.outside / row.structures))
        for name, found, _ in _datasets(view, errors)
        for row in found.domain
        if row.structures
    )
    columns = (
        Column("Dataset"), Column("By"), Column("Group"), Column("Structures", True), Column("In domain", True),
    )  # fmt: skip
    return Table(columns, rows, "By the distance to the training split in the models' own features.")


def worst(view: CampaignView, errors: EnsembleErrors | None) -> Table:
    """Return the structures with the largest errors, with the file and record of each."""
    rows = tuple(
        (
            name, target.label, one.formula, in_unit(target, one.error), in_unit(target, one.halfwidth),
            domain_word(one), one.group, one.origin,
        )
        for name, target, one in worst_structures(view, errors)
    )  # fmt: skip
    columns = (
        Column("Dataset"), Column("Quantity"), Column("Structure"), Column("Error", True),
        Column("Half-width of its interval", True), Column("In domain"), Column("Group"), Column("File and record"),
    )  # fmt: skip
    return Table(columns, rows, "The largest entry of each structure of the test split; the drawings show the same.")


def worst_structures(view: CampaignView, errors: EnsembleErrors | None) -> Iterator[tuple[str, Target, DrawnStructure]]:
    """Yield dataset, target and structure of the largest errors."""
    for name, found, targets in _datasets(view, errors):
        for one in found.worst:
            if one.target in targets:
                yield name, targets[one.target], one


def domain_word(one: DrawnStructure) -> str:
    """Return whether a structure is in domain, in a word."""
    return MISSING if one.in_domain is None else "yes" if one.in_domain else "no"


def _datasets(
    view: CampaignView, errors: EnsembleErrors | None
) -> Iterator[tuple[str, SplitErrors, dict[str, Target]]]:
    if errors is None or view.calibration is None:
        return
    for name, found in errors.datasets.items():
        if name in view.calibration.judged:
            targets = {target.name: target for target, _ in view.calibration.judged[name].quantities()}
            yield name, found, targets
