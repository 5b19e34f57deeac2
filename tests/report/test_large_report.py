"""A search of thousands of candidates: everything is shown, by few drawings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from synthetic_campaign import candidates, finished_campaign

from gfm_pipeline.report.figures import campaign as figures
from gfm_pipeline.report.figures.canvas import Canvas
from gfm_pipeline.report.html_table import render_table
from gfm_pipeline.report.tables.candidates import candidates as candidate_table
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.view import CampaignView


def searched(count: int) -> CampaignView:
    view, _ = finished_campaign()
    return dataclasses.replace(view, candidates=candidates(np.random.default_rng(1), count))


@pytest.fixture
def drawn(monkeypatch):
    """Return the lists of artists on the axes of each figure that is drawn."""
    found = []
    write = Canvas.svg

    def svg(canvas: Canvas, label: str) -> str:
        found.append([*canvas.axes.lines, *canvas.axes.collections])
        return write(canvas, label)

    monkeypatch.setattr(Canvas, "svg", svg)
    return found


@pytest.mark.parametrize("figure", [figures.search_progress, figures.candidate_curves])
def test_many_candidates_take_no_more_artists_than_few(figure, drawn):
    for count in (40, 400):
        assert figure(searched(count)) is not None
    assert len(drawn[0]) == len(drawn[1]) <= 20


def test_every_finished_rung_is_a_point(drawn):
    view = searched(200)
    assert figures.search_progress(view) is not None
    points = sum(len(line.get_xdata()) for line in drawn[0] if line.get_linestyle() == "None")
    assert points == sum(rung.objective is not None for c in view.candidates for rung in c.rungs)


def test_every_curve_is_drawn_and_one_validation_is_a_point(drawn):
    view = searched(200)
    short = tuple(dataclasses.replace(c, curve=c.curve[:1]) for c in view.candidates[:30])
    view = dataclasses.replace(view, candidates=short + view.candidates[30:])
    assert figures.candidate_curves(view) is not None
    curves = [c.curve for c in view.candidates if c.curve]
    lines = [artist.get_segments() for artist in drawn[0] if hasattr(artist, "get_segments")]
    others = [artist for artist in drawn[0] if not hasattr(artist, "get_segments")]
    points = [artist.get_xdata() for artist in others if artist.get_marker() == "o"]
    (crosses,) = [artist.get_xdata() for artist in others if artist.get_marker() == "x"]
    assert len(crosses) == sum(c.status == "stopped" for c in view.candidates if c.curve)
    rungs = {tuple(artist.get_xdata()) for artist in others if artist.get_linestyle() == ":"}
    assert rungs == {(rung.graphs, rung.graphs) for c in view.candidates for rung in c.rungs}
    assert sum(map(len, lines)) == sum(len(curve) > 1 for curve in curves)
    assert sum(map(len, points)) == sum(len(curve) == 1 for curve in curves) > 20
    found = {tuple(map(tuple, segment.tolist())) for group in lines for segment in group}
    assert found == {tuple((p.graphs, p.objective) for p in curve) for curve in curves if len(curve) > 1}


def test_a_table_holds_every_cell_and_escapes_it():
    columns = (Column("<Name>"), Column("Count", True), Column("Status"))
    table = Table(columns, (("a & b", "1", "● done"), ('"<script>"', "2", "✕ <i>")), "a < b")
    text = str(render_table(table))
    assert '<td class="short">a &amp; b</td><td class="right">1</td>' in text
    assert '<span class="badge done">● done</span>' in text
    assert '<span class="badge &lt;i&gt;">✕ &lt;i&gt;</span>' in text
    assert "<script>" not in text
    assert '<p class="note">a &lt; b</p>' in text
    large = candidate_table(searched(300))
    assert str(render_table(large)).count("<td ") == 300 * len(large.columns)
