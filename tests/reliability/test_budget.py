"""Budgets: nothing starts that would exceed one, raising one goes on, and what cannot finish is refused."""

from __future__ import annotations

import json
import subprocess

import pretended
import pytest
import runs

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.campaign.usage import usage
from gfm_pipeline.cli.main import invoke

BUSY = pretended.WORKFLOW.replace("candidates: 4", "candidates: 4\n  wave: 2")


def with_budget(folder, budget: str, workflow: str = BUSY) -> list[str]:
    return pretended.write_campaign(folder, workflow + budget)


def of(folder, kind):
    return [e for e in runs.events(pretended.journal_of(folder)) if isinstance(e, kind)]


def said(folder) -> str:
    return (folder / "driver.log").read_text()


def trained(folder) -> set[str]:
    return {e.task for e in of(folder, ev.TaskStarted) if e.task.startswith("c0")}


def candidates(folder) -> int:
    return sum(len(wave.candidates) for wave in of(folder, ev.WaveProposed))


@pytest.fixture(scope="module")
def by_trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    runs.finish(folder, *with_budget(folder, "budget: {trials: 2}\n"))
    return folder


def test_trials_bound_the_candidates_and_the_search_ends_with_what_it_has(by_trials):
    assert candidates(by_trials) == 2
    (curtailed,) = of(by_trials, ev.StageCurtailed)
    assert "2 trials" in curtailed.reason
    assert of(by_trials, ev.MembersSelected)
    assert any(e.outputs.keys() == {"ensemble"} for e in of(by_trials, ev.StageDone))


def test_raised_it_goes_on_where_it_was(by_trials, uninterrupted):
    before = trained(by_trials)
    lines = len(runs.events(pretended.journal_of(by_trials)))
    runs.finish(by_trials, *with_budget(by_trials, "budget: {trials: 3}\n"))
    assert candidates(by_trials) == 3
    new = runs.events(pretended.journal_of(by_trials))[lines:]
    again = {e.task for e in new if isinstance(e, ev.TaskStarted) and e.task in before}
    assert not again
    state = load_state(pretended.journal_of(by_trials))
    assert all(state.stage(name).outputs for name in ("ingest", "search", "converge", "calibrate"))


def test_a_limit_that_is_reached_pauses_and_raising_it_finishes(tmp_path):
    """0.5 s of one machine is over before two candidates are done."""
    runs.finish(tmp_path, *with_budget(tmp_path, f"budget: {{node_hours: {2.0 / 3600}}}\n"), code=3)
    assert "the budget is spent" in said(tmp_path)
    assert "Raise budget.node_hours" in said(tmp_path)
    state = load_state(pretended.journal_of(tmp_path))
    used = usage(state, state.last_event, alive=False).node_seconds
    assert used < 2.0 + 8.0  # what running attempts need to save
    done = {e.task for e in of(tmp_path, ev.TaskEnded) if e.outcome is ev.AttemptOutcome.OK}
    runs.finish(tmp_path, *with_budget(tmp_path, "budget: {node_hours: 100}\n"))
    finished = [e.task for e in of(tmp_path, ev.TaskEnded) if e.outcome is ev.AttemptOutcome.OK]
    assert done < set(finished)
    assert len(finished) == len(set(finished))


def test_the_search_leaves_converge_its_share(tmp_path):
    """The search may use next to nothing of its own, and converge is done all the same."""
    slow = BUSY.replace("candidates: 4", "candidates: 60").replace("rungs: [100, 200]", "rungs: [40, 80]")
    runs.finish(tmp_path, *with_budget(tmp_path, f"budget: {{stages: {{search: {{node_hours: {3 / 3600}}}}}}}\n", slow))
    (curtailed,) = of(tmp_path, ev.StageCurtailed)
    assert curtailed.limits == {"budget.stages.search.node_hours": 3 / 3600}
    assert candidates(tmp_path) < 60
    assert any(e.outputs.keys() == {"ensemble"} for e in of(tmp_path, ev.StageDone))
    words = runs.output(tmp_path, "status", "campaigns/pretended")
    assert "budget, node-hours of search" in words
    assert "reserved" in words
    plan = runs.output(tmp_path, "plan", "w.yaml", "--site", "site.yaml", "--json")
    assert json.loads(plan)["budget"][0]["key"] == "budget.stages.search.node_hours"


def test_what_cannot_finish_is_refused_with_the_smallest_that_can(by_trials, capsys, monkeypatch):
    monkeypatch.chdir(by_trials)
    more = BUSY.replace("seed: 5", "seed: 6").replace("rungs: [100, 200]", "rungs: [10000000, 20000000]")
    with_budget(by_trials, "budget: {node_hours: 0.5}\n", more)
    capsys.readouterr()
    assert invoke(["plan", "w.yaml", "--site", "site.yaml"]) == 2
    told = capsys.readouterr().err
    number = BUSY.count("\n") + 1
    assert f"w.yaml:{number}" in told
    assert "cannot finish" in told
    least = told.partition("Set budget.node_hours to ")[2].partition(" ")[0]
    with_budget(by_trials, f"budget: {{node_hours: {least}}}\n", more)
    assert invoke(["plan", "w.yaml", "--site", "site.yaml"]) == 0
    assert "Budget, node-hours" in capsys.readouterr().out
    before = len(runs.events(pretended.journal_of(by_trials)))
    with_budget(by_trials, "budget: {node_hours: 0.5}\n", more)
    done = subprocess.run(
        runs.command("run", "w.yaml", "--site", "site.yaml"), cwd=by_trials, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert len(runs.events(pretended.journal_of(by_trials))) == before


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("{trials: 1}", "converge.members"),
        ("{node_hours: 0}", "should be above 0"),
        ("{kwh: -3}", "should be above 0"),
        ("{hours: .nan}", "hours"),
        ("{stages: {serch: {hours: 3}}}", "no stage 'serch'"),
        ("{node_hour: 3}", "node_hours"),
        ("{node_hours: 1.0e-5}", "cannot finish"),  # no machine trains in this time
        ("{hours: 1.0e-6}", "Set budget.hours to"),
        ("{stages: {converge: {kwh: 1.0e-12}}}", "Set budget.stages.converge.kwh to"),
    ],
)
def test_bad_budgets_are_refused_with_their_line(tmp_path, capsys, monkeypatch, budget, words):
    monkeypatch.chdir(tmp_path)
    with_budget(tmp_path, f"budget: {budget}\n")
    assert invoke(["plan", "w.yaml", "--site", "site.yaml"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "w.yaml:" in told
    assert "Traceback" not in told
    assert not (tmp_path / "campaigns").exists()
