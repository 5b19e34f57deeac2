"""The page as people use it: readable in contrast and on paper, with time lines, notes and figures that agree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_campaign import finished_campaign

from gfm_pipeline.core.contracts.evaluation import figure_key
from gfm_pipeline.report import timeline
from gfm_pipeline.report.html import _template, render_html
from gfm_pipeline.report.html_table import WIDE, render_table
from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.summary import remarks, summary_lines
from gfm_pipeline.report.tables.campaign import accuracy, saved_line
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.timeline import AttemptBar, draw, lines

CSS = _template("report.css")
TEXT = ("ink", "muted", "accent", "good", "warn", "bad")
PAIRS = [(text, surface) for text in TEXT for surface in ("paper", "surface")]
PAIRS += [("ink", "grid"), *((name, f"{name}-soft") for name in ("accent", "good", "warn", "bad"))]


def luminance(color: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_has_a_contrast_of_at_least_four_and_a_half() -> None:
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.S)
    ]
    assert len(schemes) == 3  # light, dark, paper
    for scheme in schemes:
        colors = {**schemes[0], **scheme}
        for text, surface in PAIRS:
            high, low = sorted((luminance(colors[text]), luminance(colors[surface])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, surface, colors[text], colors[surface])


def test_on_paper_no_table_scrolls_and_every_cell_may_break() -> None:
    paper = CSS.partition("@media print {")[2]
    assert re.search(r"\.scroll \{[^}]*overflow: visible", paper)
    cells = re.search(r"th, td[^{]*\{([^}]*)\}", paper)
    assert cells is not None
    for rule in ("min-width: 0", "max-width: none", "white-space: normal", "overflow-wrap: break-word"):
        assert rule in cells[1]
    assert re.search(r"td\.text, [^{]*table\.wide td \{ overflow-wrap: anywhere", paper)  # long texts, and many columns
    many = Table(tuple(Column(f"c{k}") for k in range(WIDE + 1)), (("x",) * (WIDE + 1),))
    assert '<table class="dense wide">' in render_table(many)
    assert "td.text" in cells[0]
    assert ".right" in cells[0]  # what does not break elsewhere
    assert re.search(r"pre \{[^}]*pre-wrap", paper)


def bar(number: int, begin: float, end: float, node: str = "n1", outcome: str = "ok") -> AttemptBar:
    return AttemptBar("search", f"c{number}", 1, begin, end, (node,), outcome)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20), st.sampled_from(["n1", "n2"])), max_size=40))
def test_no_two_attempts_on_a_line_overlap_and_none_is_lost(spans: list[tuple[float, float, str]]) -> None:
    bars = sorted((bar(k, a, a + d, node) for k, (a, d, node) in enumerate(spans)), key=lambda b: b.begin)
    dealt = lines(bars)
    assert sorted(b.task for line in dealt for b in line.bars) == sorted(b.task for b in bars)
    for line in dealt:
        assert len({b.nodes for b in line.bars}) == 1
        assert all(a.end <= b.begin + 1e-3 for a, b in zip(line.bars, line.bars[1:], strict=False))


def test_the_time_line_draws_each_attempt_and_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = [bar(0, 0, 10), bar(1, 5, 20, "n<2>"), bar(2, 20, 60, outcome="retryable")]
    svg = draw(bars)
    assert svg is not None
    assert svg.count("<rect") == 3
    assert svg.count('class="lost"') == 1
    assert "n&lt;2&gt;" in svg
    assert "3 attempts at tasks on 2 nodes" in svg
    x = [float(v) for v in re.findall(r'<rect[^>]* x="([\d.]+)"', svg)]
    assert x[0] < x[2] or x[0] < x[1]
    monkeypatch.setattr(timeline, "MOST_BARS", 2)
    monkeypatch.setattr(timeline, "MOST_LINES", 1)
    few = draw(bars)
    assert few is not None
    assert "1 of 2 lines, 2 of 3 attempts (the longest) are drawn" in few
    assert draw([]) is None


def test_the_error_beside_the_points_is_that_of_the_table_though_few_are_drawn() -> None:
    view, arrays = finished_campaign()
    for field in ("label", "mean", "spread", "deviation"):
        key = figure_key("alloys", "energy", field)
        arrays[key] = arrays[key][:40] if field != "mean" else arrays[figure_key("alloys", "energy", "label")][:40]
    page = render_html(view, arrays)
    (row,) = [r for r in accuracy(view).rows if r[:2] == ("alloys", "Energy, meV/atom")] or [
        r for r in accuracy(view).rows if r[0] == "alloys" and "nergy" in r[1]
    ]
    assert f"MAE {row[2]} meV/atom" in page  # 0 of what is drawn
    assert "40 of" in page


def test_what_could_be_better_is_said_plainly() -> None:
    view, _ = finished_campaign()
    (limited,) = remarks(view)
    assert limited.startswith("1 of 4 members did not converge (m2)")
    assert view.calibration is not None
    report = view.calibration.datasets["alloys"]
    worse = replace(report, energy=replace(report.energy, best_member_mae=report.energy.mae / 2))
    calibration = replace(view.calibration, datasets={**view.calibration.datasets, "alloys": worse})
    shown = replace(view, calibration=calibration)
    said = remarks(shown)
    assert len(said) == 2
    assert "On alloys the ensemble is worse than its best member alone" in said[1]
    for text in (render_html(shown), render_markdown(shown).replace("\\", ""), "\n".join(summary_lines(shown, "c"))):
        assert "worse than its best member alone" in text
        assert "did not converge (m2)" in text
    energy = report.energy
    for mae, error in [(1.0004 * energy.mae, None), (1.1 * energy.mae, 0.06 * energy.mae)]:
        close = replace(energy, mae=mae, best_member_mae=energy.mae, excess_error=error)
        datasets = {**view.calibration.datasets, "alloys": replace(report, energy=close)}
        same = replace(view, calibration=replace(view.calibration, datasets=datasets))
        assert len(remarks(same)) == 1, "not visible in three digits, or within two standard errors"
    meant = {**view.resolved, "converge": {"criterion": {"name": "limit", "options": {}}}}
    assert remarks(replace(view, resolved=meant)) == ()  # each was to train to its limit


def test_what_stopping_saved_is_the_rest_of_each_candidate_at_its_own_speed() -> None:
    view, _ = finished_campaign()
    stopped = [c for c in view.candidates if c.status == "stopped"]
    graphs = sum(18000 - c.rungs[-1].graphs for c in stopped)
    share = round(100 * graphs / (18000 * len(view.candidates)))
    assert f"{share} %" in saved_line(view)
    assert saved_line(replace(view, candidates=())) == ""


def test_provenance_and_citations_of_the_data_are_on_the_page() -> None:
    view, _ = finished_campaign()
    sources = {"alloys": {"reader": "ase", "licence": "CC-BY <4.0>", "citation": "A. Author, J. Alloys 1 (2026)"}}
    shown = replace(view, resolved={**view.resolved, "data": {"sources": sources}})
    page = render_html(shown, attempts=[bar(0, 0, 1, "node7")])
    for text in ("CC-BY &lt;4.0&gt;", "Data alloys: A. Author, J. Alloys 1 (2026)", "node7", "CITATION.cff"):
        assert text in page
    assert "CC-BY &lt;4.0&gt;" in render_markdown(shown)


SORT = """
const rows = ["10", "9", "-", "1,200"].map((t) => ({ cells: [{ textContent: t }], textContent: t, hidden: false }));
const heading = { a: {}, classList: { contains: () => true }, setAttribute(k, v) { this.a[k] = v; },
  getAttribute(k) { return this.a[k] ?? null; }, removeAttribute(k) { delete this.a[k]; },
  addEventListener(kind, f) { if (kind === "click") this.click = f; } };
const body = { rows, append(...sorted) { this.rows = sorted; } };
const table = { tBodies: [body], querySelectorAll: () => [heading], parentElement: { before() {} } };
globalThis.document = { querySelectorAll: (s) => (s.includes("table") ? [table] : []) };
globalThis.addEventListener = () => {};
SCRIPT
const order = () => body.rows.map((row) => row.textContent);
heading.click(); const up = order(); heading.click();
console.log(JSON.stringify([up, order()]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the page's script is not run")
def test_tables_sort_by_their_numbers() -> None:
    code = SORT.replace("SCRIPT", _template("report.js").replace('"use strict";', ""))
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["9", "10", "1,200", "-"], ["-", "1,200", "10", "9"]]


def test_the_script_is_inside_and_asks_for_nothing() -> None:
    view, arrays = finished_campaign()
    page = render_html(view, arrays)
    assert page.count("<script>") == 1
    assert not re.search(r"<script[^>]+src|fetch\(|XMLHttpRequest|@import", page)
