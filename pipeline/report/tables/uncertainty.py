"""Tables of the quality of intervals: scores of the calibrated deviation, and coverage by groups of the test split."""

from __future__ import annotations

from gfm_pipeline.core.contracts.accuracy.split_errors import EnsembleErrors
from gfm_pipeline.report.tables.headlines import in_unit, quantities
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import count, percent, significant
from gfm_pipeline.report.view import CampaignView


def scores(view: CampaignView) -> Table:
    """Scores of the calibrated deviation on the test split; no rows for campaigns of versions without scores."""
    rows = tuple(
        (
            name,
            target.label,
            in_unit(target, q.crps_calibrated),
            in_unit(target, q.sharpness),
            *(significant(x) for x in (q.calibration_error, q.auroc_worst, q.auprc_worst, q.ause)),
        )
        for name, target, q in quantities(view)
        if q.sharpness is not None
    )
    columns = (
        Column("Dataset"), Column("Quantity"), Column("CRPS", True), Column("Sharpness", True),
        Column("Calibration error", True), Column("AUROC", True), Column("AUPRC", True), Column("AUSE", True),
    )  # fmt: skip
    note = "AUROC and AUPRC: how well the deviation finds the tenth of the entries with the largest errors."
    return Table(columns, rows, note)


def groups(view: CampaignView, errors: EnsembleErrors | None) -> Table:
    """Coverage by element and by size, with standard errors of bootstrap samples of whole trajectories.

    There are no rows of datasets in ``errors``, whose table has the coverage of each group, too.
    """
    elsewhere = () if errors is None else errors.datasets
    rows = tuple(
        (
            name,
            target.label,
            group.by,
            group.group,
            f"{percent(group.coverage)} ± {percent(group.error)}",
            count(group.n),
        )
        for name, target, q in quantities(view)
        if name not in elsewhere
        for group in q.groups
    )
    columns = (
        Column("Dataset"), Column("Quantity"), Column("By"), Column("Group"), Column("Coverage", True),
        Column("Entries", True),
    )  # fmt: skip
    return Table(columns, rows, "Test split. Errors are of bootstrap samples of whole trajectories.")
