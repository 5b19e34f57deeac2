"""The members' weights in the report: a column per dataset where they are known, nothing where not."""

from __future__ import annotations

import dataclasses

from synthetic_campaign import finished_campaign

from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.tables import campaign as tables
from gfm_pipeline.report.view import CampaignView


def weighted(view: CampaignView, weights: dict[str, dict[str, float]]) -> CampaignView:
    assert view.calibration is not None
    datasets = {
        name: dataclasses.replace(report, weights=weights.get(name, {}))
        for name, report in view.calibration.datasets.items()
    }
    return dataclasses.replace(view, calibration=dataclasses.replace(view.calibration, datasets=datasets))


def titles(view: CampaignView) -> list[str]:
    return [column.title for column in tables.members(view).columns]


def test_weights_are_a_column_a_dataset() -> None:
    view = weighted(
        finished_campaign()[0],
        {
            "molecules": {"m0": 0.478, "m1": 0.522, "m2": 0.0, "m3": 0.0},
            "alloys": {"m0": 0.2, "m1": 0.4, "m2": 0.4},
        },
    )
    table = tables.members(view)
    assert titles(view)[-2:] == ["molecules: weight", "alloys: weight"]
    assert [row[-2] for row in table.rows] == ["0.48", "0.52", "0.00", "0.00"]
    assert [row[-1] for row in table.rows] == ["0.20", "0.40", "0.40", tables.MISSING]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert "share in the ensemble" in table.note
    assert "| molecules: weight | alloys: weight |" in render_markdown(view)


def test_only_datasets_with_weights_have_a_column() -> None:
    view = weighted(finished_campaign()[0], {"alloys": {"m0": 0.25, "m1": 0.25, "m2": 0.25, "m3": 0.25}})
    assert [title for title in titles(view) if "weight" in title] == ["alloys: weight"]


def test_without_weights_the_table_is_as_it_was() -> None:
    finished = finished_campaign()[0]
    for view in (finished, dataclasses.replace(finished, calibration=None)):
        assert "weight" not in "".join(titles(view))
        assert "share" not in tables.members(view).note
