"""Campaigns of earlier versions open, go on and report; those of newer versions are refused with one sentence."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import runs
from old_campaigns import FIXTURES, content, copy_of, rewrite

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.contracts.policies import PROPOSALS, default_choice
from gfm_pipeline.core.records import to_plain

RECORDED = sorted(p.name for p in FIXTURES.iterdir())
JOURNAL = "campaign/journal.jsonl"
OF_WORKFLOW = ["w.yaml", "--campaign", "campaign"]
# Every command that reads a campaign; `run` and `resume` change it too.
LOOKING = [
    ["status", "campaign"],
    ["status", "campaign", "--json"],
    ["verify", "campaign"],
    ["plan", *OF_WORKFLOW],
    ["why", "w.yaml", "calibrate", "--campaign", "campaign"],
]
DRIVING = [["run", *OF_WORKFLOW], ["resume", "campaign"]]


@pytest.fixture(params=RECORDED)
def recorded(request, tmp_path, monkeypatch):
    folder = copy_of(request.param, tmp_path / "old")
    monkeypatch.chdir(folder)
    return folder


def test_the_fixtures_are_small_and_name_no_machine():
    assert RECORDED[0] == "campaign-v1"
    for name in RECORDED:
        files = content(FIXTURES / name)
        assert sum(map(len, files.values())) < 300_000
        assert [f for f, data in files.items() if re.search(rb"[ \"'](/[A-Za-z0-9._-]+){2,}", data)] == []


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_it_opens(command, recorded, capsys):
    before = content(recorded)
    assert invoke(command) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out
    assert content(recorded) == before


def test_it_says_what_it_said(recorded, capsys):
    assert invoke(["status", "campaign", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["name"] == "recorded"
    assert [stage["status"] for stage in status["stages"]] == ["done"] * 4
    assert [m["name"] for m in status["members"]] == ["m00", "m01"]
    # A version that makes a stage in another way (CODE_VERSION) runs it again; then this is to be said here.
    assert invoke(["plan", *OF_WORKFLOW, "--json"]) == 0
    assert [stage["action"] for stage in json.loads(capsys.readouterr().out)["stages"]] == ["done"] * 4


def test_it_reports(recorded):
    assert invoke(["report", "campaign"]) == 0
    text = (recorded / "campaign" / "report.md").read_text()
    for word in ("recorded", "alloys", "SchNet", "EGNN", "m00", "m01"):
        assert word in text
    assert "records read was set aside." in text
    assert re.search(r"The full report of ingest: .*/alloys/ingest\\_report\.md\.", text)
    assert "cannot be shown" not in text
    page = (recorded / "campaign" / "report.html").read_text()
    assert page.count("<svg") + page.count("data:image") >= 3


@pytest.mark.parametrize("harm", ["removed", "truncated"])
def test_it_reports_though_a_dataset_is_damaged(harm, recorded):
    (dataset,) = (recorded / "campaign" / "stages").glob("ingest-*/datasets/alloys")
    if harm == "removed":
        shutil.rmtree(dataset)
    else:
        (dataset / "manifest.json").write_text("{")
    assert invoke(["status", "campaign"]) == 0
    assert invoke(["report", "campaign"]) == 0
    assert "What ingest found cannot be shown: " in (recorded / "campaign" / "report.md").read_text()


def test_its_ensemble_predicts(recorded):
    from ase.build import bulk

    from gfm_pipeline.apps.calculator import GFMCalculator

    atoms = bulk("Cu", cubic=True)
    atoms.calc = GFMCalculator.from_campaign(recorded / "campaign", dataset="alloys")
    assert np.isfinite(atoms.get_potential_energy())
    assert np.isfinite(atoms.get_forces()).all()
    assert atoms.calc.results["energy_interval"] > 0


@pytest.mark.slow
def test_it_resumes_where_there_is_nothing_to_do(recorded):
    before = len(runs.events(recorded / JOURNAL))
    runs.finish(recorded, "resume", "campaign")
    assert [type(e) for e in runs.events(recorded / JOURNAL)[before:]] == [
        ev.DriverStarted,
        ev.NodesHeld,
        ev.DriverEnded,
    ]


@pytest.mark.slow
def test_it_resumes_in_the_middle(recorded):
    """As if its driver had died before calibrate: today's programs go on from yesterday's artefacts."""
    whole = runs.outcome(recorded / JOURNAL)

    def before_calibrate(entries):
        end = next(i for i, e in enumerate(entries) if e.data.get("stage") == "calibrate")
        return entries[:end]

    rewrite(recorded / JOURNAL, before_calibrate)
    for path in (recorded / "campaign" / "stages").glob("calibrate-*"):
        shutil.rmtree(path)
    before = len(runs.events(recorded / JOURNAL))
    runs.finish(recorded, "resume", "campaign")
    new = runs.events(recorded / JOURNAL)[before:]
    assert sorted(e.task for e in new if isinstance(e, ev.TaskStarted)) == ["fit", "predict-m00", "predict-m01"]
    assert runs.outcome(recorded / JOURNAL).keys() == whole.keys()


def refused(capsys, command, *words):
    """Assert that a command ends with exit code 5 and one sentence."""
    assert invoke(command) == 5
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


def newer_schema(entries):
    return [replace(entries[0], data=entries[0].data | {"schema": 99, "unheard": 1}), *entries[1:]]


def newer_kind(entries):
    return [*entries, replace(entries[-1], kind="sun-exploded", data={})]


@pytest.mark.parametrize("command", [*LOOKING, *DRIVING, ["report", "campaign"]], ids=" ".join)
@pytest.mark.parametrize(("change", "words"), [(newer_schema, "schema 99"), (newer_kind, "'sun-exploded'")])
def test_a_newer_journal_is_refused(change, words, command, tmp_path, monkeypatch, capsys):
    folder = copy_of("campaign-v1", tmp_path / "old")
    monkeypatch.chdir(folder)
    rewrite(folder / JOURNAL, change)
    before = content(folder)
    refused(capsys, command, str(folder / JOURNAL), "newer version", words)
    assert content(folder) == before


@pytest.mark.parametrize("place", ["ingest-*/datasets/alloys", "converge-*/checkpoints/m00", "calibrate-*/ensemble"])
def test_a_newer_artefact_is_refused(place, tmp_path, monkeypatch, capsys):
    folder = copy_of("campaign-v1", tmp_path / "old")
    monkeypatch.chdir(folder)
    (artefact,) = (folder / "campaign" / "stages").glob(place)
    manifest = artefact / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": 99, "files": []}))
    before = content(artefact)
    refused(capsys, ["verify", "--quick", "campaign"], str(artefact), "newer version (schema 99)", "Upgrade")
    if place.startswith("calibrate"):
        refused(capsys, ["report", "campaign"], str(artefact), "newer version (schema 99)", "Upgrade")
    assert content(artefact) == before


def test_it_keeps_the_proposals_it_began_with(recorded):
    from gfm_pipeline.api.run_request import resolve

    def method(workflow, *overrides):
        return resolve(workflow, "local", recorded / "campaign", overrides).context.workflow.search.proposals.name

    def in_waves(workflow, *overrides):
        context = resolve(workflow, "local", recorded / "campaign", overrides).context
        return not context.workflow.search.asynchronous

    def cap(workflow, *overrides):
        context = resolve(workflow, "local", recorded / "campaign", overrides).context
        return context.workflow.converge.max_per_algorithm

    workflow = recorded / "w.yaml"
    assert method(workflow) == "deephyper"
    assert in_waves(workflow)
    assert not in_waves(workflow, "search.asynchronous=true")
    assert [cap(workflow), cap(workflow, "converge.max_per_algorithm=2")] == [1, 2]
    assert method(workflow, "search.candidates=9") == "deephyper"
    assert method(workflow, "search.proposals=random") == "random"
    shutil.move(recorded / "campaign", recorded / "elsewhere")  # a new campaign of the same file
    one = "converge.members=1"  # a new search of two candidates has one survivor
    assert method(workflow, one) == "batch-local-gp"
    assert not in_waves(workflow, one)
    assert cap(workflow, one) is None


@pytest.mark.parametrize(
    ("begun", "now"), [("batch-gp", "batch-gp"), ("batch-ucb", "batch-ucb"), ("random", "batch-local-gp")]
)
def test_a_search_goes_on_with_the_default_proposals_of_its_version(begun, now, recorded):
    """A method that was never a default was taken out of the file, so the search is another one."""
    from gfm_pipeline.api.run_request import resolve

    def named(entries):
        return [replace(e, data=with_method(e.data)) if e.data.get("stage") == "search" else e for e in entries]

    def with_method(data):
        choice = to_plain(default_choice(PROPOSALS, begun))
        return {**data, "settings": {**data["settings"], "proposals": choice}} if "settings" in data else data

    rewrite(recorded / JOURNAL, named)
    search = resolve(recorded / "w.yaml", "local", recorded / "campaign", ()).context.workflow.search
    assert search.proposals.name == now


@pytest.mark.parametrize("kept", [True, False])
def test_a_search_goes_on_with_what_its_version_searched_where_the_file_is_silent(recorded, kept):
    """A changed default does not make a search of before anew; a setting that was taken out of the file does."""
    from gfm_pipeline.api.run_request import resolve

    before = {"low": 1, "high": 30, "scale": "log"} if kept else 5

    def silent(entries):
        return [replace(e, data=with_weight(e.data)) if e.data.get("stage") == "search" else e for e in entries]

    def with_weight(data):
        if "settings" not in data:
            return data
        space = {**data["settings"]["space"], "force_weight": before}
        return {**data, "settings": {**data["settings"], "space": space}}

    rewrite(recorded / JOURNAL, silent)
    file = recorded / "w.yaml"
    file.write_text(file.read_text().replace("    force_weight: 5\n", ""))

    def searched(campaign):
        overrides = () if campaign == "campaign" else ("converge.members=1",)  # a new search has one survivor
        space = resolve(file, "local", recorded / campaign, overrides).context.workflow.search.space
        return space.written()["force_weight"]

    assert searched("campaign") == (before if kept else searched("new"))
    assert searched("new") == {"low": 0.3, "high": 3, "scale": "log"}


def test_a_search_keeps_the_rungs_it_began_with_where_the_file_is_silent(recorded):
    from gfm_pipeline.api.run_request import resolve

    def rungs(campaign):
        overrides = () if campaign == "campaign" else ("converge.members=1", "search.reduction=1.1")
        return resolve(file, "local", recorded / campaign, overrides).context.workflow.search.rungs

    file = recorded / "w.yaml"
    begun = rungs("campaign")
    kept = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("rungs:")]
    file.write_text("\n".join(kept) + "\n")
    assert rungs("campaign") == begun
    assert rungs("new") == [6_000, 12_000, 48_000, 96_000]
