"""Status as text and as JSON, and the state of a campaign in words."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console
from synthetic_campaign import START, finished_campaign

from gfm_pipeline.report import text
from gfm_pipeline.report.html import render_html
from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.status_text import MOST_CANDIDATES, render_status, status_json
from gfm_pipeline.report.tables import campaign as tables
from gfm_pipeline.report.view import CampaignView, StageStatus, TaskFailure


@pytest.fixture(scope="module")
def campaign() -> tuple[CampaignView, dict[str, np.ndarray]]:
    return finished_campaign()


@pytest.mark.parametrize(
    ("status", "alive", "expected"),
    [
        (StageStatus.DONE, False, "done"),
        (StageStatus.RUNNING, True, "running"),
        (StageStatus.RUNNING, False, "stopped"),
        (StageStatus.FAILED, True, "failed"),
    ],
)
def test_overall_state(
    status: StageStatus, alive: bool, expected: str, campaign: tuple[CampaignView, dict[str, np.ndarray]]
) -> None:
    view, _ = campaign
    last = dataclasses.replace(view.stages[-1], status=status)
    assert tables.overall(dataclasses.replace(view, stages=(*view.stages[:-1], last), driver_alive=alive)) == expected


@pytest.mark.parametrize("width", [60, 100, 200])
def test_status_shows_what_matters_and_collapses_the_rest(
    width: int, campaign: tuple[CampaignView, dict[str, np.ndarray]]
) -> None:
    view, _ = campaign
    failures = tuple(TaskFailure(f"task-{i}", 1, "node lost", f"logs/{i}.err") for i in range(5))
    many = tuple(dataclasses.replace(view.candidates[1], name=f"x{i}") for i in range(300))
    busy = dataclasses.replace(
        view,
        failures=failures,
        candidates=(*many, dataclasses.replace(view.candidates[5], running_task="search/c005-r2")),
    )
    stream = io.StringIO()
    render_status(busy, Console(file=stream, width=width))
    shown = stream.getvalue()
    assert f"and {301 - MOST_CANDIDATES} more" in shown
    assert [f"task-{i}" in shown for i in range(5)] == [False, False, True, True, True]
    assert "logs/4.err" in shown
    assert view.next_command in shown
    for stage in view.stages:
        assert stage.name in shown
    if width == 200:
        assert "search/c005-r2" in shown
        assert "0.2395 ± 0.0123" in shown


def test_status_json_is_plain_and_complete(campaign: tuple[CampaignView, dict[str, np.ndarray]]) -> None:
    view, _ = campaign
    plain = json.loads(json.dumps(status_json(view), allow_nan=False))
    assert plain["schema_version"] == 1
    assert plain["status"] == "done"
    assert [s["status"] for s in plain["stages"]] == ["done"] * 4
    assert len(plain["candidates"]) == len(view.candidates)
    assert plain["calibration"]["datasets"]["alloys"]["forces"]["mae"] == pytest.approx(
        view.calibration.datasets["alloys"].forces.mae if view.calibration else 0.0
    )


def test_text_helpers() -> None:
    assert [text.duration(s) for s in (4.2, 59.97, 192, 7500, 360000)] == [
        "4.2 s", "1 min 00 s", "3 min 12 s", "2 h 05 min", "4 d 4 h",
    ]  # fmt: skip
    assert [text.significant(x) for x in (0.0, 0.00002, 0.1234, 12.0, 123.4, 1234.0, 5e7)] == [
        "0.00", "2.00e-05", "0.123", "12.0", "123", "1,234", "5.00e+07",
    ]  # fmt: skip
    assert [text.short_count(x) for x in (950, 12500, 3.2e6)] == ["950", "12.5k", "3.2M"]
    assert text.moment(START) == "2026-11-23 04:00 UTC"
    assert text.flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}}) == {"a.b": 1, "a.c.d": 2}


def test_status_and_report_say_that_an_ensemble_should_not_be_used() -> None:
    view, _ = finished_campaign()
    assert view.calibration is not None
    name, sound = next(iter(view.calibration.datasets.items()))
    absurd = dataclasses.replace(sound, energy=dataclasses.replace(sound.energy, mae=90.171))
    datasets = {**view.calibration.datasets, name: absurd}
    doubted = dataclasses.replace(view, calibration=dataclasses.replace(view.calibration, datasets=datasets))
    said = f"{name} should not be used: the energy MAE is 9.017e+04 meV/atom"
    for shown, times in ((view, 0), (doubted, 1)):
        console = Console(file=io.StringIO(), width=80)
        render_status(shown, console)
        assert console.file.getvalue().count(f"WARNING {said}") == times
        assert len(status_json(shown)["doubts"]) == times
        assert render_markdown(shown).count(f"**WARNING** {said}") == times
        assert render_html(shown).count(f"<b>Warning:</b> {said}") == times
