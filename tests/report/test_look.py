"""What a look at the pages of real campaigns found: axes without numbers, hidden points, numbers that do not agree."""

from __future__ import annotations

import dataclasses
import re
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic_campaign import finished_campaign

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import AttemptOutcome
from gfm_pipeline.campaign.journal import SCHEMA_VERSION, Journal
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.contracts.evaluation import figure_key
from gfm_pipeline.core.contracts.ingest.report import ElementCount, Histogram, IngestReport
from gfm_pipeline.core.contracts.targets import ENERGY
from gfm_pipeline.core.contracts.training_result import StopReason, TrainResult
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.report.build import build_view
from gfm_pipeline.report.figures import data as data_figures
from gfm_pipeline.report.figures import evaluation as evaluation_figures
from gfm_pipeline.report.figures.canvas import log_axis
from gfm_pipeline.report.html import render_html
from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.tables import campaign as tables
from gfm_pipeline.report.tables import data as data_tables


def places_of(drawn: str, text: str) -> list[tuple[float, float]]:
    """Return where the texts that read so stand in an SVG, in its units, from its upper left corner."""
    found = re.findall(rf'(?:rotate\(-0 |translate\()([\d.]+) ([\d.]+)\)">{re.escape(text)}<', drawn)
    return [(float(x), float(y)) for x, y in found]


@pytest.mark.parametrize(
    ("low", "high"), [(0.98, 1.07), (0.9, 1.5), (0.99, 1.001), (15.0, 26.0), (0.3, 9.0), (1e-3, 1e4)]
)
def test_a_logarithmic_axis_has_several_numbers_however_short_it_is(low: float, high: float) -> None:
    axes = Figure().add_subplot()
    axes.plot([0, 1], [low, high])
    log_axis(axes, "y")
    least, most = axes.get_ylim()
    shown = [tick for tick in axes.yaxis.get_major_locator()() if least <= tick <= most]
    assert 3 <= len(shown) <= 10
    words = [axes.yaxis.get_major_formatter()(tick) for tick in shown]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(("shift", "upper"), [(-0.5, True), (0.5, False)])
def test_the_histogram_of_errors_lies_where_no_points_are(shift: float, upper: bool) -> None:
    label = np.linspace(0.0, 1.0, 50)
    arrays = {figure_key("d", "energy", "label"): label, figure_key("d", "energy", "mean"): label + shift}
    drawn = evaluation_figures.parity(arrays, "d", ENERGY, "k")
    assert drawn is not None
    (place,) = places_of(drawn, "error, meV/atom")
    box = [float(number) for number in re.findall(r'viewBox="([^"]+)"', drawn)[0].split()]
    assert (place[0] < box[2] / 2, place[1] < box[3] / 2) == (upper, upper)


@pytest.mark.parametrize("elements", [14, 28, 48, 72, 94])
def test_symbols_of_elements_stand_apart(elements: int) -> None:
    counts = tuple(ElementCount("Mn", 10, 5) for _ in range(elements))
    nothing = Histogram((), ())
    drawn = data_figures.elements(IngestReport(9, (), counts, nothing, nothing, nothing, 9, 0), "d", "k")
    assert drawn is not None
    size = float(re.findall(r"font-size: ([\d.]+)px", drawn.split(">Mn<", 1)[0])[-1])
    places = places_of(drawn, "Mn")
    assert len(places) == elements
    for row in {round(y) for _, y in places}:
        across = [x for x, y in places if round(y) == row]
        assert min(b - a for a, b in pairwise(across)) > 1.5 * size  # as wide as "Mn" is


def test_nothing_is_said_of_forces_where_there_are_none() -> None:
    view, _ = finished_campaign()
    assert view.calibration is not None
    report = view.calibration.datasets["alloys"]
    alone = dataclasses.replace(report, forces=dataclasses.replace(report.forces, n=0))
    members = tuple(
        dataclasses.replace(
            m, errors=m.errors | {"alloys": dataclasses.replace(m.errors["alloys"], force_mae=0.0, null_force_mae=0.0)}
        )
        for m in view.members
    )
    facts = tuple(dataclasses.replace(d, force_rms=0.0 if d.name == "alloys" else 1.0) for d in view.datasets)
    datasets = view.calibration.datasets | {"alloys": alone}
    done = dataclasses.replace(
        view,
        members=members,
        datasets=facts,
        calibration=dataclasses.replace(view.calibration, datasets=datasets),
    )
    for shown in (done, dataclasses.replace(done, calibration=None)):
        page = unescape(render_html(shown))
        card = page.split('<div class="card result"><h3>alloys</h3>')[1].split("</section>")[0]
        assert "Energy MAE" in card
        assert "Force" not in card
        (line,) = (line for line in render_markdown(shown).splitlines() if line.startswith("- **alloys**"))
        assert "force" not in line
        assert "energy MAE" in line
        titles = [column.title for column in tables.members(shown).columns]
        cells = {row[titles.index("alloys: forces, meV/Å")] for row in tables.members(shown).rows}
        assert cells == {tables.MISSING}
    assert "energy intervals cover" in render_markdown(done)
    assert [row[6] for row in data_tables.datasets(done).rows] == ["1.00", tables.MISSING]


def trained(reason: StopReason) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(TrainResult(reason, 1.0, {}, 10, 1, 1, 1.0, 10.0, None, None))
    return plain


def test_cards_count_as_the_tables_do(tmp_path: Path) -> None:
    candidates = tuple(ev.Candidate(f"c{k}", 0, {"algorithm": "PaiNN"}) for k in range(4))
    evidence = {f"c{k}": f"rank {k} of 4" for k in range(1, 4)}
    # One more member is wanted than passed, so a stopped candidate trains on.
    members = tuple(ev.Member(f"m{k}", f"c{k}", 0, 1.0, {}) for k in range(2))
    settings = {"candidates": 4, "rungs": [100]}
    events: list[ev.Event] = [
        ev.CampaignCreated(SCHEMA_VERSION, "c", "0"),
        ev.StageOpened("search", "s", settings, {}, 1),
        ev.WaveProposed("s", 0, candidates, "random", 0),
        *(ev.TaskStarted("s", f"c{k}-r0", 1) for k in range(4)),
        *(
            ev.TaskEnded("s", f"c{k}-r0", 1, AttemptOutcome.OK, 1.0, result=trained(StopReason.BUDGET))
            for k in range(4)
        ),
        ev.RungDecided("s", 0, 0, ("c0",), evidence),
        ev.MembersSelected("s", members),
        ev.StageOpened("converge", "c", {}, {}, 1),
    ]
    for k, reason in enumerate((StopReason.CONVERGED, StopReason.LIMIT)):
        events.append(ev.TaskStarted("c", f"m{k}", 1))
        events.append(ev.TaskEnded("c", f"m{k}", 1, AttemptOutcome.OK, 1.0, result=trained(reason)))
    with Journal(CampaignPaths(tmp_path).journal) as journal:
        for event in events:
            journal.append(*ev.to_entry(event))
    view = build_view(tmp_path)
    details = {stage.name: stage.detail for stage in view.stages}
    assert details["search"] == "4 of 4 candidates proposed, 2 stopped early"
    assert "2 stopped early" in tables.search_line(view)
    assert details["converge"] == "1 converged, 1 at its limit"
