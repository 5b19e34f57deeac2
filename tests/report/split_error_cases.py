"""Errors of groups of the test split, as a campaign records them, for the datasets of `synthetic_campaign`."""

from __future__ import annotations

from gfm_pipeline.core.contracts.accuracy.split_errors import (
    DrawnStructure,
    EnsembleErrors,
    GroupDomain,
    GroupErrors,
    SplitErrors,
)
from gfm_pipeline.core.contracts.evaluation import QuantityReport
from gfm_pipeline.report.view import CampaignView

WATER = ((0.0, 0.0, 0.119), (0.0, 0.763, -0.477), (0.0, -0.763, -0.477))


def recorded(view: CampaignView) -> EnsembleErrors:
    assert view.calibration is not None
    reports = view.calibration.datasets
    return EnsembleErrors(1, {name: of(report.energy, report.forces) for name, report in reports.items()})


def of(energy: QuantityReport, forces: QuantityReport) -> SplitErrors:
    whole = [
        GroupErrors(name, "all", "all", 290, q.n, q.mae, q.rmse, 9 * q.mae, q.coverage_calibrated, q.coverage_error)
        for name, q in (("energy", energy), ("forces", forces))
    ]
    parts = [
        GroupErrors("forces", "element", "O", 120, 900, 0.123, 0.234, 1.5, 0.91, 0.02),
        GroupErrors("energy", "file", "hot <600K>.xyz", 40, 40, 0.0345, 0.0456, 0.2, 0.55, None),
    ]
    water = DrawnStructure(
        "forces", 1.5, 0.4, 2.0, 0.5, "hot <600K>.xyz#7", "run-3", "H2O", ("O", "H", "H"), WATER, 3, (0.66, 0.31, 0.31),
        ((0, 1), (0, 2)), atom=0, in_domain=False,
    )  # fmt: skip
    cell = ((3.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 3.0))
    copper = DrawnStructure(
        "energy", 0.2, None, 0.1, 0.3, "cu.xyz#0", "1", "Cu", ("Cu",), ((0.0, 0.0, 0.0),), 1, (1.32,), (), cell
    )
    domain = (GroupDomain("all", "all", 290, 29), GroupDomain("file", "hot <600K>.xyz", 40, 30))
    return SplitErrors((*whole, *parts), domain, (water, copper), {"group": 3})
