"""What ingest found, in the report and the status: per source counts, reasons, first records, histograms, tables."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
from ase.io import write
from ingest_cases import labelled, run_all
from rich.console import Console
from synthetic_campaign import finished_campaign

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import AttemptOutcome
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import fold
from gfm_pipeline.core.contracts.data import AssembleResult, ReadShardResult, SourceSettings
from gfm_pipeline.core.contracts.ingest.label_keys import KeyFound, LabelInventory
from gfm_pipeline.core.contracts.ingest.report import ElementCount, Histogram, IngestReport, SetAside
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.report.figures import data as data_figures
from gfm_pipeline.report.html import render_html
from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.sources import Found, build_sources, read_found
from gfm_pipeline.report.status_text import MOST_SOURCES, render_status, status_json
from gfm_pipeline.report.tables import data as data_tables
from gfm_pipeline.report.view import CampaignView, SourceView, StageStatus, TaskFailure

TABLE = "reason       records  share  first\nno energy         10   25 %  a <b>.extxyz, record 0"
NUMBERS = IngestReport(
    read=2913,
    set_aside=(
        SetAside("force above 30 eV/Å", 9, "runs/hot.extxyz", 1041),
        SetAside("overlapping atoms", 4, "runs/cold.extxyz", 7),
    ),
    elements=(ElementCount("H", 14000, 2900), ElementCount("C", 9000, 2800), ElementCount("N", 1, 1)),
    sizes=Histogram((2.5, 3.5, 4.5, 5.5), (100, 0, 2800)),
    energies=Histogram((-0.2, -0.1, 0.0, 0.1), (400, 1500, 1000)),
    forces=Histogram((0.0, 1.0, 2.0), (70_000, 0)),
    structures=2900,
    components=78_300,
)
FOUND = {"molecules": Found("d/quarantine.jsonl", "d/ingest_report.md", NUMBERS)}


def status_of(view: CampaignView, width: int = 140) -> str:
    stream = io.StringIO()
    render_status(view, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.fixture(scope="module")
def view() -> CampaignView:
    return finished_campaign()[0]


def test_the_report_names_every_reason_with_its_share_and_first_record(view: CampaignView) -> None:
    markdown, page = render_markdown(view, FOUND), unescape(render_html(view, None, FOUND))
    # 2320 + 290 + 290 structures, and 13 set aside.
    assert "| force above 30 eV/Å | 9 | 0.309 % | runs/hot.extxyz, record 1,041 |" in markdown
    assert "| overlapping atoms | 4 | 0.137 % | runs/cold.extxyz, record 7 |" in markdown
    assert "13 of 2,913 records read were set aside (0.446 %); every one is named in d/quarantine.jsonl." in markdown
    assert "None of 2,800 records read was set aside." in markdown
    for words in ("runs/hot.extxyz, record 1,041", "0.309 %", "named in d/quarantine.jsonl", "d/ingest_report.md"):
        assert words in page


def test_the_report_lists_the_keys_of_the_records_and_what_they_were_used_as(view: CampaignView) -> None:
    keys = (
        KeyFound("REF_energy", "energy", "number", 2913, "energy"),
        KeyFound("<b>mu", "dipole", "[3]", 2900, "not used"),
        KeyFound("head", "head or method", "text", 2913, "not used", {f"level {k}": 9 - k for k in range(8)}),
    )
    found = {"molecules": Found("q", "r", dataclasses.replace(NUMBERS, labels=LabelInventory(keys, records=2913)))}
    markdown, page = render_markdown(view, found), render_html(view, None, found)
    assert "#### Labels and metadata: molecules" in markdown
    assert "| REF\\_energy | energy | number | 2,913 | energy | - |".replace("-", data_tables.MISSING) in markdown
    assert "| &lt;b&gt;mu | dipole | \\[3\\] | 2,900 | not used |" in markdown
    assert "9 x level 0, 8 x level 1" in markdown
    assert "and 2 more values" in markdown
    for words in ("REF_energy", "<b>mu", "head or method", "9 x level 0"):
        assert words in unescape(page)
    assert "<b>mu" not in page
    assert "Labels and metadata" not in render_markdown(view, FOUND)
    many = LabelInventory(tuple(KeyFound(f"k{k}", "unknown", "number", 1, "not used") for k in range(99)), records=1)
    table = data_tables.label_keys(Found("q", "r", dataclasses.replace(NUMBERS, labels=many)))
    assert len(table.rows) == data_tables.MOST_KEYS
    assert "60 of 99 keys" in table.note


def test_the_report_draws_elements_sizes_energies_and_forces(view: CampaignView) -> None:
    page = render_html(view, None, FOUND)
    assert page.count("<svg ") == render_html(view).count("<svg ") + 4
    labels = re.findall(r'aria-label="molecules: ([^"]+)"', page)
    assert labels == [
        "atoms and structures of 3 elements.",
        "sizes of 2,900 structures.",
        "energy minus references of 2,900 structures.",
        "absolute force components of 70,000 components.",
    ]
    assert "70,000 of 78,300 components, first of every split" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_source_of_energies_alone_has_no_picture_of_forces(view: CampaignView) -> None:
    alone = dataclasses.replace(NUMBERS, forces=Histogram((), ()), components=0)
    assert data_figures.forces(alone, "d", "k") is None
    page = render_html(view, None, {"molecules": Found("q", "r", alone)})
    assert page.count("<svg ") == render_html(view).count("<svg ") + 3


@pytest.mark.parametrize("width", [0.0, 1e-9, 5.0])
@pytest.mark.parametrize("elements", [1, 30, 94])
def test_any_report_is_drawn(width: float, elements: int) -> None:
    found = dataclasses.replace(
        NUMBERS,
        elements=tuple(ElementCount(f"E{k}", 10**9 // (k + 1), k) for k in range(elements)),
        sizes=Histogram((0.5, 1.5), (3,)),
        energies=Histogram((2.0, 2.0 + width), (7,)),
        forces=Histogram((0.0, width), (7,)),
    )
    for draw in (data_figures.elements, data_figures.sizes, data_figures.energies, data_figures.forces):
        drawn = draw(found, "d", "k")
        assert drawn is not None
        assert drawn.startswith("<svg ")
        assert "nan" not in drawn.lower()


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(view: CampaignView) -> None:
    broken = {"molecules": Found("d/q.jsonl", "d/r.md", problem="d has no manifest.json: it was removed.")}
    for text in (render_markdown(view, broken), unescape(render_html(view, None, broken))):
        assert "What ingest found cannot be shown: d has no manifest.json: it was removed." in text
        assert "overlapping atoms" in text
    old = {"molecules": Found("d/q.jsonl", "d/r.md")}
    assert f"| overlapping atoms | 4 | 0.137 % | {data_tables.MISSING} |" in render_markdown(view, old)
    assert "The full report of ingest: d/r.md." in unescape(render_html(view, None, old))


def test_the_table_of_a_refused_source_is_shown_while_its_stage_stands_failed(view: CampaignView) -> None:
    failure = TaskFailure("ingest/assemble-mine", 1, "too many bad", "log", "user error", "given up", TABLE)
    ingest = dataclasses.replace(view.stages[0], status=StageStatus.FAILED)
    failed = dataclasses.replace(view, stages=(ingest, *view.stages[1:]), failures=(failure, *view.failures))
    for line in TABLE.splitlines():
        assert line in status_of(failed, 60)
        assert line in render_markdown(failed)
        assert line in unescape(render_html(failed))
    assert "a <b>" not in render_html(failed)
    assert status_json(failed)["failures"][0]["table"] == TABLE
    mended = dataclasses.replace(failed, stages=view.stages)
    assert "too many bad" in status_of(mended)
    assert TABLE.splitlines()[1] not in status_of(mended)
    assert TABLE.splitlines()[1] in render_markdown(mended)


def test_status_counts_what_was_set_aside_of_every_source(view: CampaignView) -> None:
    def source(name: str, status: StageStatus, bad: int) -> SourceView:
        return SourceView(name, status, 4, 4 if status is StageStatus.DONE else 1, 200, bad, {"no energy": bad})

    clean = tuple(source(f"clean{k}", StageStatus.DONE, 0) for k in range(MOST_SOURCES))
    some = dataclasses.replace(
        view, sources=(*clean, source("dirty", StageStatus.DONE, 3), source("reading", StageStatus.RUNNING, 1))
    )
    lines = [line.split() for line in status_of(some).splitlines()]
    rows = [words for words in lines if words and words[0] in {s.name for s in some.sources}]
    assert rows[0] == ["reading", "◐", "running", "1/4", "200", "1", "0.500", "%", "1", "x", "no", "energy"]
    assert rows[1][:7] == ["dirty", "●", "done", "4/4", "200", "3", "1.50"]
    assert len(rows) == MOST_SOURCES
    assert "and 2 more" in status_of(some)
    assert "### Read so far" in render_markdown(some)
    assert "Read so far" not in render_markdown(dataclasses.replace(view, sources=clean))
    assert json.loads(json.dumps(status_json(some)))["sources"][-1]["set_aside"] == 1


def ended(task: str, result: object) -> ev.TaskEnded:
    return ev.TaskEnded("k", task, 1, AttemptOutcome.OK, 1.0, result=to_plain(result))


def stage_of(*events: ev.Event) -> StageState:
    opened = ev.StageOpened("ingest", "k", {"sources": {"mine": {"shards": 2}}}, {}, 2)
    stage = fold([(float(t), event) for t, event in enumerate((opened, *events))]).stage("ingest")
    assert stage is not None
    return stage


def test_sources_are_counted_from_results_and_from_what_running_tasks_say(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path)
    read = ReadShardResult("o", "d", 40, 3, {"no energy": 1, "atoms overlap": 2}, (), 1.0)
    begun = [ev.TaskStarted("k", name, 1) for name in ("read-mine-00000", "read-mine-00001")]
    progress = paths.stage("ingest", "k").attempt("read-mine-00001", 1) / "progress.jsonl"
    progress.parent.mkdir(parents=True)
    progress.write_text('{"done": 5, "quarantined": 0}\n{"done": 20, "quarantined": 4}\n{"done": 30, "quar')
    stage = stage_of(*begun, ended("read-mine-00000", read))
    (source,) = build_sources(paths, stage, alive=True)
    assert (source.status, source.shards_read, source.records, source.set_aside) == ("running", 1, 63, 7)
    assert list(source.reasons.items()) == [("atoms overlap", 2), ("no energy", 1)]
    assert source.quarantine.endswith("/shards/mine-*/quarantine.jsonl")
    assert build_sources(paths, stage, alive=False)[0].status == "stopped"
    both = (*begun, ended("read-mine-00000", read), ended("read-mine-00001", read))
    joining = (*both, ev.TaskStarted("k", "assemble-mine", 1))
    progress = paths.stage("ingest", "k").attempt("assemble-mine", 1) / "progress.jsonl"
    progress.parent.mkdir(parents=True)
    progress.write_text('{"done": 1, "quarantined": 9}\n')
    (source,) = build_sources(paths, stage_of(*joining), alive=True)
    assert (source.shards_read, source.records, source.set_aside) == (2, 86, 9)
    facts = dataclasses.replace(
        finished_campaign()[0].datasets[0], name="mine", n_quarantined=13, reasons={"duplicate": 13}
    )
    done = ended("assemble-mine", AssembleResult("o", "d", facts, 1.0))
    (source,) = build_sources(paths, stage_of(*joining, done), alive=True)
    assert (source.status, source.records, source.set_aside) == ("done", 2913, 13)
    assert source.reasons == {"duplicate": 13}
    assert source.quarantine.endswith("/datasets/mine/quarantine.jsonl")
    assert build_sources(paths, None, alive=True) == ()


def test_a_damaged_or_missing_dataset_says_so(tmp_path: Path) -> None:
    frames = labelled(12)
    frames[4].calc = None
    write(tmp_path / "x.extxyz", frames)
    source = SourceSettings("x", "ase", (str(tmp_path / "x.extxyz"),), group_key="run")
    folder = Path(run_all(tmp_path / "ok", source, max_quarantined=0.2).output)
    found = read_found(folder)
    assert found.numbers is not None
    assert found.numbers.set_aside == (SetAside("no energy", 1, str(tmp_path / "x.extxyz"), 4),)
    assert (Path(found.quarantine).is_file(), Path(found.report).is_file(), found.problem) == (True, True, "")
    file = folder / "ingest_report.json"
    whole = file.read_text()
    file.write_text(whole.replace('"read": 12', '"read": 13'))
    assert "was changed after it was published" in read_found(folder).problem
    file.unlink()
    assert "cannot be read" in read_found(folder).problem
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    assert "is damaged" in read_found(folder).problem
    shutil.rmtree(folder)
    gone = read_found(folder)
    assert "has no manifest.json" in gone.problem
    assert gone.numbers is None
