"""An error that no sensible model has is said wherever the ensemble is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gfm_pipeline.apps.calibrate.card import model_card
from gfm_pipeline.apps.calibrate.evaluate import UNLABELLED
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.evaluation import DatasetReport
from gfm_pipeline.report.summary import summary_lines


@pytest.mark.parametrize(
    ("energy", "of_nothing", "forces", "doubts"),
    [(90.171, 80.0, 0.1, 1), (0.01, 0.2, 0.1, 0), (3.0, 0.2, 2.5, 2), (0.05, 0.02, 0.9, 0)],
)
def test_an_absurd_error_is_a_loud_warning(energy: float, of_nothing: float, forces: float, doubts: int) -> None:
    report = DatasetReport(
        replace(UNLABELLED, mae=energy, null_mae=of_nothing, n=9),
        replace(UNLABELLED, mae=forces, null_mae=1.0, n=9),
        9,
    )
    assert len(report.doubts()) == doubts
    calibration = SimpleNamespace(level=0.9, datasets={"x": report}, judged={"x": report})
    view: Any = SimpleNamespace(
        name="c",
        members=(),
        candidates=(),
        resolved={},
        calibration=calibration,
    )
    lines = summary_lines(view, "folder")
    assert sum("WARNING x should not be used" in line for line in lines) == doubts
    facts = DatasetStatistics(
        "x", {}, {}, {}, ("H",), {"H": 0.0}, 1, "fit", 1.0, 1.0, {}, {}, 2, 0, {}, reference_undetermined=((1.0,),)
    )
    card = model_card({}, [facts], {"x": report}, 0.9, 1)
    assert card.count("x should not be used") == doubts
    assert "do not determine the reference energies" in card
