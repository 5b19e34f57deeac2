"""A campaign's energy: its tasks, its idle nodes and the rest used what the machine's counter counted."""

from __future__ import annotations

import json
import signal

import pretended
import pytest
import runs
import ticking

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.campaign.usage import usage
from gfm_pipeline.core.contracts.energy import EnergyLabel
from gfm_pipeline.report.build import build_view
from gfm_pipeline.report.energy import sentence
from gfm_pipeline.report.markdown import render_markdown


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return the folder of a campaign on a machine with a counter, interrupted once."""
    folder = tmp_path_factory.mktemp("measured")
    words = pretended.write_campaign(folder)
    with ticking.TickingCounter(folder / "counters") as counter:
        site = folder / "site.yaml"
        site.write_text(site.read_text() + f"energy: {{source: pm_counters, path: {counter.root}}}\n")
        first = runs.start(folder, *words)
        runs.wait_for(pretended.journal_of(folder), lambda e: isinstance(e, ev.TaskStarted) and e.task.startswith("c0"))
        first.send_signal(signal.SIGTERM)
        assert first.wait(120) == 3
        runs.finish(folder, *words)
    return folder


def held(folder) -> list[tuple[float, float]]:
    """Return from when to when drivers held the machine, by the journal's own times."""
    begun, found = 0.0, []
    for entry in read(pretended.journal_of(folder)):
        if entry.kind == "nodes-held":
            begun = entry.t
        elif entry.kind == "driver-ended":
            found.append((begun, entry.t))
    return found


def test_tasks_idle_nodes_and_overhead_are_what_the_counter_counted(measured):
    counted = sum(ticking.joules(end) - ticking.joules(begun) for begun, end in held(measured))
    state = load_state(pretended.journal_of(measured))
    used = usage(state, state.last_event, alive=False)
    assert len(held(measured)) == 2
    assert used.energy.joules == pytest.approx(counted, rel=0.01)
    assert used.allocation.joules == pytest.approx(counted, rel=0.01)
    assert abs(used.difference) < 0.01
    assert used.tasks.label is EnergyLabel.ATTRIBUTED  # two tasks share the machine
    assert used.tasks.joules > 0.3 * counted
    assert used.idle.label is EnergyLabel.MEASURED
    assert used.energy.error < 0.05 * counted


def test_every_attempt_has_its_energy_in_the_journal(measured):
    ended = [e for e in runs.events(pretended.journal_of(measured)) if isinstance(e, ev.TaskEnded)]
    assert all(e.energy is not None and e.energy.source == "pm_counters" for e in ended)
    assert all(e.node_seconds == pytest.approx(e.seconds / 2) for e in ended)


def test_people_see_energy_with_its_label_in_status_and_report(measured):
    view = build_view(pretended.campaign_of(measured))
    assert all(c.energy is not None and c.joules_per_graph > 0 for c in view.candidates)
    assert {s.name for s in view.energy.stages} == {"ingest", "search", "converge", "calibrate"}
    assert abs(view.energy.difference) < 0.01
    text = render_markdown(view)
    assert sentence(view.energy).partition(";")[0].replace("_", "\\_") in text
    assert "(attributed, pm\\_counters)" in text
    status = runs.output(measured, "status", "campaigns/pretended", "--json")
    energy = json.loads(status)["energy"]
    assert energy["total"]["label"] == "attributed"


def test_without_counters_the_model_stands_in_and_says_so(uninterrupted, tmp_path):
    words = pretended.write_campaign(tmp_path, pretended.SHORT)
    site = tmp_path / "site.yaml"
    site.write_text(site.read_text() + "energy: {source: model, node_watts: 500, idle_node_watts: 100}\n")
    runs.finish(tmp_path, *words)
    state = load_state(pretended.journal_of(tmp_path))
    used = usage(state, state.last_event, alive=False)
    assert used.allocation is None
    assert used.tasks.label is EnergyLabel.MODELLED
    assert used.tasks.error is None
    assert used.tasks.joules == pytest.approx(500 * used.tasks.node_seconds)
    assert used.overhead.joules == pytest.approx(100 * (used.node_seconds - used.tasks.node_seconds))
    plain = load_state(pretended.journal_of(uninterrupted))
    assert usage(plain, plain.last_event, alive=False).node_seconds > 0
