"""The report and the status screen, drawn from a view that looks like a real campaign."""

from __future__ import annotations

import dataclasses
import io
import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from rich.console import Console
from ruamel.yaml import YAML
from synthetic_campaign import empty_campaign, finished_campaign

from gfm_pipeline.core.contracts.evaluation import GroupCoverage, figure_key
from gfm_pipeline.core.contracts.targets import FORCES
from gfm_pipeline.report.figures import campaign as figures
from gfm_pipeline.report.figures import evaluation as evaluation_figures
from gfm_pipeline.report.html import render_html
from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.status_text import render_status
from gfm_pipeline.report.summary import summary_lines
from gfm_pipeline.report.tables import campaign as tables
from gfm_pipeline.report.tables import candidates as candidate_tables
from gfm_pipeline.report.view import CampaignView, TaskFailure

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use", "image", "rect", "circle"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects text, ids, scripts and whatever would be loaded."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "data", "srcset", "action"):
                self.loads.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def campaign() -> tuple[CampaignView, dict[str, np.ndarray]]:
    return finished_campaign()


@pytest.fixture(scope="module")
def page(campaign: tuple[CampaignView, dict[str, np.ndarray]]) -> str:
    return render_html(*campaign)


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert page.startswith("<!doctype html>")
    assert "http://" not in page
    assert "https://" not in page
    assert all(load.startswith(("#", "data:image/png;base64,")) for load in parsed.loads)
    assert not {"link", "iframe", "img", "object"} & set(parsed.tags)
    assert parsed.tags.count("script") == 1  # the page's own: it sorts and filters tables
    assert "<script src" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_ids_are_unique_and_every_reference_has_its_target(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    wanted = {load[1:] for load in parsed.loads if load.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert wanted <= set(parsed.ids)


def test_page_names_every_candidate_member_dataset_stage_and_log(
    campaign: tuple[CampaignView, dict[str, np.ndarray]], page: str
) -> None:
    view, _ = campaign
    words = " ".join(Page(page).text)
    for candidate in view.candidates:
        assert candidate.name in words
        assert candidate.outcome in words
    for name in (*(m.name for m in view.members), *(d.name for d in view.datasets), *(s.name for s in view.stages)):
        assert name in words
    assert view.failures[0].log in words
    assert "force above 30 eV/Å" in words


def test_every_figure_is_there_and_follows_the_pages_colours(page: str) -> None:
    # Search, candidates, parallel coordinates, members, errors; then three for two quantities of two datasets.
    assert page.count("<svg ") == 5 + 3 * 2 * 2
    drawings = "".join(re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL))
    assert "var(--ink)" in drawings
    assert "var(--series-1)" in drawings
    for placeholder in ("#1d2330", "#667085", "#e4e7ec", "#0072b2", "#d55e00"):
        assert placeholder not in drawings


def test_drawing_leaves_matplotlibs_settings_alone(campaign: tuple[CampaignView, dict[str, np.ndarray]]) -> None:
    before = dict(mpl.rcParams)
    assert figures.search_progress(campaign[0]) is not None
    assert dict(mpl.rcParams) == before


def test_the_same_view_gives_the_same_page(campaign: tuple[CampaignView, dict[str, np.ndarray]], page: str) -> None:
    assert render_html(*campaign) == page


def test_names_cannot_smuggle_markup_or_formulas(campaign: tuple[CampaignView, dict[str, np.ndarray]]) -> None:
    view, arrays = campaign
    assert view.calibration is not None
    name = f"{EVIL}$\\frac{{1}}$"
    candidates = tuple(dataclasses.replace(c, name=EVIL + c.name, outcome=EVIL) for c in view.candidates)
    members = tuple(
        dataclasses.replace(m, name=f"{EVIL}_{m.name}", errors={name: m.errors["alloys"]}) for m in view.members
    )
    evil = dataclasses.replace(
        view,
        name=EVIL,
        candidates=candidates,
        members=members,
        datasets=(dataclasses.replace(view.datasets[0], name=name, reasons={EVIL: 1}),),
        calibration=dataclasses.replace(view.calibration, datasets={name: view.calibration.datasets["alloys"]}),
        failures=(TaskFailure(EVIL, 1, EVIL, EVIL),),
        resolved={EVIL: EVIL},
    )
    moved = {key.replace("alloys/", f"{name}/"): value for key, value in arrays.items() if key.startswith("alloys")}
    parsed = Page(render_html(evil, moved))
    assert parsed.tags.count("script") == 1  # the page's own
    assert any(EVIL in part for part in parsed.text)
    markdown = render_markdown(evil)
    outside_fences = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    assert "<script>" not in outside_fences
    console = Console(file=io.StringIO(), width=120)
    render_status(dataclasses.replace(evil, name="[red]x[/nothing]"), console)
    assert "[red]x[/nothing]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_campaign_that_just_started_says_what_is_missing() -> None:
    page = render_html(empty_campaign())
    words = " ".join(Page(page).text)
    assert "<svg" not in page
    for line in ("No candidate has been proposed yet.", "No dataset has been assembled yet.", "No attempt has failed."):
        assert line in words
        assert line in render_markdown(empty_campaign())


@pytest.mark.parametrize("keep", ["search", "members", "no curves", "no arrays", "one point"])
def test_half_finished_campaigns_are_drawn(keep: str, campaign: tuple[CampaignView, dict[str, np.ndarray]]) -> None:
    view, arrays = campaign
    first = view.candidates[0]
    evaluation: dict[str, np.ndarray] | None = None
    if keep == "search":
        view = dataclasses.replace(view, members=(), calibration=None, datasets=())
    elif keep == "members":
        view = dataclasses.replace(view, calibration=None)
        assert "best member so far (m0), validation split" in render_html(view)
    elif keep == "no curves":
        view = dataclasses.replace(
            view,
            candidates=tuple(dataclasses.replace(c, curve=(), rungs=()) for c in view.candidates),
            members=tuple(dataclasses.replace(m, curve=(), errors={}, objective=None) for m in view.members),
        )
    elif keep == "one point":
        lonely = dataclasses.replace(first, curve=first.curve[:1], rungs=first.rungs[:1], running_task="c000-r1")
        view = dataclasses.replace(view, candidates=(lonely,), members=())
        evaluation = {key: value[:1] for key, value in arrays.items()}
    Page(render_html(view, evaluation))
    assert render_markdown(view)
    render_status(view, Console(file=io.StringIO(), width=100))


def test_perfect_and_constant_predictions_are_drawn() -> None:
    same = np.full(20, -3.0)
    arrays = {figure_key("d", "forces", "label"): same, figure_key("d", "forces", "mean"): same}
    arrays |= {figure_key("d", "forces", key): np.zeros(20) for key in ("spread", "deviation")}
    assert evaluation_figures.parity(arrays, "d", FORCES, "a") is not None
    assert evaluation_figures.spread_and_error(arrays, "d", FORCES, "b") is None
    assert evaluation_figures.parity({}, "d", FORCES, "a") is None


def test_coverage_of_groups_and_scores_are_in_both_reports(
    campaign: tuple[CampaignView, dict[str, np.ndarray]],
) -> None:
    view, arrays = campaign
    assert view.calibration is not None
    name, report = next(iter(view.calibration.datasets.items()))
    known = (
        GroupCoverage("element", "Cu", 900, 30, 0.874, 0.021),
        GroupCoverage("size", "1 to 9 atoms", 9, 3, 1.0, 0.2),
    )
    forces = dataclasses.replace(
        report.forces, sharpness=0.1, auroc_worst=0.861, auprc_worst=None, ause=0.17, groups=known
    )
    datasets = {**view.calibration.datasets, name: dataclasses.replace(report, forces=forces)}
    changed = dataclasses.replace(view, calibration=dataclasses.replace(view.calibration, datasets=datasets))
    for text in (render_html(changed, arrays), render_markdown(changed)):
        assert "87.4" in text
        assert "1 to 9 atoms" in text
        assert "0.861" in text
    assert "AUPRC" not in render_markdown(view)  # of a version that measured none


def test_a_dataset_without_forces_is_summed_up_by_its_energies(
    campaign: tuple[CampaignView, dict[str, np.ndarray]],
) -> None:
    view, arrays = campaign
    assert view.calibration is not None
    name, report = next(iter(view.calibration.datasets.items()))
    none = dataclasses.replace(report.forces, n=0, mae=0.0, null_mae=0.0, coverage_calibrated=0.0)
    datasets = {**view.calibration.datasets, name: dataclasses.replace(report, forces=none)}
    view = dataclasses.replace(view, calibration=dataclasses.replace(view.calibration, datasets=datasets))
    (line,) = (line for line in summary_lines(view, "folder") if line.split()[:1] == [name])
    assert line.split()[1:] == [
        f"{1000 * report.energy.mae:.1f}", "meV/at", "none", "none", "E", f"{report.energy.coverage_calibrated:.1%}"
    ]  # fmt: skip
    Page(render_html(view, {key: value for key, value in arrays.items() if not key.startswith(f"{name}/forces")}))
    assert render_markdown(view)


def rows_of(markdown: str, heading: str) -> list[list[str]]:
    section = markdown.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_markdown_numbers_are_the_views(campaign: tuple[CampaignView, dict[str, np.ndarray]]) -> None:
    view, _ = campaign
    markdown = render_markdown(view)
    assert view.calibration is not None
    accuracy = {(row[0], row[1].split(",")[0]): row for row in rows_of(markdown, "Accuracy")}
    uncertainty = {(row[0], row[1].split(",")[0]): row for row in rows_of(markdown, "Uncertainty")}
    for name, report in view.calibration.datasets.items():
        for kind in ("energy", "forces"):
            found, row = getattr(report, kind), accuracy[name, kind]
            expected = [1e3 * found.mae, 1e3 * found.rmse, 1e3 * found.best_member_mae, 1e3 * found.null_mae]
            assert [float(cell) for cell in row[2:6]] == pytest.approx(expected, rel=5.1e-3)
            assert float(row[6]) == pytest.approx(found.mae / found.null_mae, rel=5.1e-3)
            assert int(row[7].replace(",", "")) == found.n
            shares = [float(x) / 100 for x in re.findall(r"([\d.]+) %", uncertainty[name, kind][2])]
            assert shares == pytest.approx(
                [found.coverage_raw, found.coverage_calibrated, found.coverage_error], abs=5.1e-4
            )
    candidates = {row[0]: row for row in rows_of(markdown, "Search")}
    assert set(candidates) == {c.name for c in view.candidates}
    for candidate in view.candidates:
        rungs = [r.objective for r in candidate.rungs if r.objective is not None]
        cells = [cell for cell in candidates[candidate.name] if "→" in cell or re.fullmatch(r"0\.\d{3}", cell)]
        found_rungs = [float(x) for x in re.findall(r"0\.\d{3}\b", " ".join(cells))]
        assert [round(r, 3) for r in rungs] == pytest.approx(found_rungs[: len(rungs)], abs=1e-9)
    for member, row in zip(view.members, rows_of(markdown, "Ensemble"), strict=True):
        assert row[0] == member.name
        assert float(row[5]) == pytest.approx(member.objective, abs=5.1e-5)
        assert float(row[6]) == pytest.approx(1e3 * member.errors["molecules"].force_mae, rel=5.1e-3)


def test_candidates_are_ranked_and_shared_settings_said_once(
    campaign: tuple[CampaignView, dict[str, np.ndarray]],
) -> None:
    view, _ = campaign
    table = candidate_tables.candidates(view)
    assert {row[0] for row in table.rows[:4]} == {c.name for c in view.candidates if c.status == "selected"}
    assert "ema decay 0.99" in table.note
    assert "ema decay" not in [column.title for column in table.columns]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_resolved_settings_read_back_as_they_were(campaign: tuple[CampaignView, dict[str, np.ndarray]]) -> None:
    view, _ = campaign
    shown = tables.settings_text(view)
    assert YAML(typ="safe").load(shown) == view.resolved
    assert list(YAML().load(shown)) == list(view.resolved)
    assert shown in render_markdown(view)
