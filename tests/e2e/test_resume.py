"""Kill the driver in each of the four stages: the campaign ends as if nothing had happened."""

import time

import pytest
import runs

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.core.publish import verify
from gfm_pipeline.engine.stages.table import NAMES

pytestmark = pytest.mark.slow
# Members that train until they are killed.
LONG = [
    "--set",
    "converge.max_graphs=1000000000",
    "--set",
    "converge.min_delta=1e-9",
    "--set",
    "converge.patience=100000",
    "--set",
    "site.compile_training=never",
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "w.yaml").write_text(runs.SMALL)
    runs.finish(folder, "run", "w.yaml")
    return folder


def prefix_of(stage, journal):
    """Return whether an event starts a task of the stage that was opened under ``stage``'s name."""
    keys = {e.key for e in runs.events(journal) if isinstance(e, ev.StageOpened) and e.stage == stage}
    return lambda event: isinstance(event, ev.TaskStarted) and event.key in keys


def test_killed_in_every_stage(uninterrupted, tmp_path):
    (tmp_path / "w.yaml").write_text(runs.SMALL)
    journal = tmp_path / "campaigns" / "small" / "journal.jsonl"
    for number, stage in enumerate(NAMES):
        process = runs.start(tmp_path, "run", "w.yaml")
        runs.wait_for(journal, lambda e, stage=stage: prefix_of(stage, journal)(e))
        # Into the middle of what runs, elsewhere in each stage; forked tasks are quick, and no stage may end meanwhile.
        time.sleep(0.1 * (number + 1))
        assert process.poll() is None, "the campaign ended before it could be killed"
        runs.kill(process)
    runs.finish(tmp_path, "run", "w.yaml")

    whole = uninterrupted / "campaigns" / "small" / "journal.jsonl"
    assert runs.outcome(journal) == runs.outcome(whole)
    drivers = [e for e in runs.events(journal) if isinstance(e, ev.DriverStarted)]
    assert len(drivers) == 5
    for task, story in runs.starts(journal).items():
        assert "ok" not in story[:-1], f"{task} was finished and yet ran again: {story}"
        assert story[-1] == "ok"

    ensemble = next((tmp_path / "campaigns").glob("*/stages/calibrate-*/ensemble"))
    verify(ensemble, digests=True)


def test_nothing_runs_on_after_the_driver_was_killed(uninterrupted, tmp_path):
    (tmp_path / "w.yaml").write_text(runs.SMALL)
    journal = tmp_path / "campaigns" / "small" / "journal.jsonl"
    process = runs.start(tmp_path, "run", "w.yaml", *LONG)
    runs.wait_for(journal, lambda e: isinstance(e, ev.TaskStarted) and e.task.startswith("m0"))
    pattern = "campaigns/small/stages/converge-*/tasks/*/attempt-1/progress.jsonl"
    while not list(tmp_path.glob(pattern)):  # a training is under way
        time.sleep(0.1)
    assert runs.processes_of(tmp_path)
    runs.kill(process)
    give_up = time.monotonic() + 20
    while (left := runs.processes_of(tmp_path)) and time.monotonic() < give_up:
        time.sleep(0.5)
    assert left == []


def test_finished_campaign_does_nothing_again(uninterrupted):
    journal = uninterrupted / "campaigns" / "small" / "journal.jsonl"
    before = len([e for e in runs.events(journal) if isinstance(e, ev.TaskStarted)])
    runs.finish(uninterrupted, "resume", "campaigns/small")
    after = len([e for e in runs.events(journal) if isinstance(e, ev.TaskStarted)])
    assert before == after


def test_changed_setting_runs_only_what_depends_on_it(uninterrupted):
    journal = uninterrupted / "campaigns" / "small" / "journal.jsonl"
    before = runs.events(journal)
    runs.finish(uninterrupted, "run", "w.yaml", "--set", "calibrate.level=0.8")
    new = runs.events(journal)[len(before) :]
    opened = [e.stage for e in new if isinstance(e, ev.StageOpened)]
    assert opened == ["calibrate"]
