"""The cost that the plan allows at most, beside the cost of a finished campaign."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.report.build import build_view
from gfm_pipeline.report.html import render_html
from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.tables.energy import planned, planned_graphs

FIXTURE = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"


def test_each_stage_that_trains_has_its_plan_beside_its_use() -> None:
    view, state = build_view(FIXTURE), load_state(CampaignPaths(FIXTURE).journal)
    most = planned_graphs(view)
    assert set(most) == {"search", "converge"}
    rows = {row[0]: row for row in planned(view).rows}
    assert set(rows) == set(most)
    for stage in view.energy.stages:
        if stage.name in most:
            row = rows[stage.name]
            tasks = state.stage(stage.name).tasks.values()
            results = [result for task in tasks if (result := task.decoded(TrainResult)) is not None]
            assert stage.graphs > 0
            assert results
            assert row[1:3] == (f"{most[stage.name]:,}", f"{stage.graphs:,.0f}")
            assert float(row[3]) == pytest.approx(stage.node_hours * most[stage.name] / stage.graphs, rel=6e-3)
            assert row[7] == f"{100 * stage.graphs / most[stage.name]:.1f} %"
    for text in (render_html(view), render_markdown(view)):
        assert "Plan and use" in text
        assert rows["search"][7] in text


def test_settings_that_cannot_be_read_have_no_plan() -> None:
    view = dataclasses.replace(build_view(FIXTURE), resolved={"search": 1})
    assert planned(view).rows == ()
    assert "Plan and use" not in render_html(view)
