"""What `status` says is to be done next after a stage failed."""

import shlex

import pytest
from click.testing import CliRunner

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import Action, AttemptOutcome, Cause
from gfm_pipeline.campaign.journal import SCHEMA_VERSION, Journal
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.cli.status import status
from gfm_pipeline.report.build import build_view

KEY = "a" * 64
WORKFLOW = "/somewhere/my data/w.yaml"


def failed(folder, cause: Cause):
    """Write the journal of a campaign whose first task failed by ``cause``."""
    resolved = {"workflow": {}, "overrides": ["seed=3"], "site": {"name": "local", "overlays": ["/o.yaml"]}}
    events = [
        ev.CampaignCreated(SCHEMA_VERSION, "c", "0.1.0"),
        ev.DriverStarted("h", 1, "local", "0.1.0", 2, None, WORKFLOW, resolved),
        ev.StageOpened("ingest", KEY, {"sources": {"a": {"shards": 1}}}, {}, 2),
        ev.TaskStarted(KEY, "read-a-00000", 1),
        ev.TaskEnded(
            KEY, "read-a-00000", 1, AttemptOutcome.PERMANENT, 1.0, "no energy", cause=cause, action=Action.GIVE_UP
        ),
        ev.StageFailedEvent(KEY, "no energy"),
        ev.DriverEnded("no energy"),
    ]
    root = folder / "campaigns" / "c"
    root.mkdir(parents=True)
    with Journal(CampaignPaths(root).journal) as journal:
        for event in events:
            journal.append(*ev.to_entry(event))
    return root


def test_after_a_failed_input_the_workflow_is_edited_and_run(tmp_path):
    root = failed(tmp_path, Cause.USER_ERROR)
    view = build_view(root)
    assert view.edit_first == WORKFLOW
    words = ["run", WORKFLOW, "--campaign", str(root), "--site", "local", "--overlay", "/o.yaml", "--set", "seed=3"]
    assert shlex.split(view.next_command) == ["gfm-pipeline", *words]
    shown = CliRunner().invoke(status, [str(root)]).output
    assert f"next: edit {WORKFLOW}, then gfm-pipeline run " in shown


@pytest.mark.parametrize("cause", [Cause.KILLED, Cause.OUT_OF_MEMORY, Cause.NODE_FAILURE])
def test_after_other_failures_it_is_resumed(tmp_path, cause):
    root = failed(tmp_path, cause)
    view = build_view(root)
    assert view.edit_first == ""
    assert shlex.split(view.next_command) == ["gfm-pipeline", "resume", str(root)]
