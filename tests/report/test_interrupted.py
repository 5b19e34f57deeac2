"""What `status` calls stages, candidates and members of a campaign that no driver runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.report.build import build_view
from gfm_pipeline.report.view import INTERRUPTED, CampaignView, StageStatus

FINISHED = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> list[CampaignView]:
    """Return what there is to show after each line of the journal, as if the driver had been killed there."""
    root = tmp_path_factory.mktemp("cut") / "campaign"
    shutil.copytree(FINISHED, root)
    journal = CampaignPaths(root).journal
    lines = journal.read_bytes().splitlines(keepends=True)
    found = []
    for end in range(2, len(lines) + 1):
        journal.write_bytes(b"".join(lines[:end]))
        found.append(build_view(root))
    return found


def test_a_stage_that_began_is_stopped_and_not_waiting(views: list[CampaignView]) -> None:
    seen = set()
    for view in views:
        for stage in view.stages:
            seen.add((stage.name, stage.status))
            begun = stage.started is not None
            assert stage.status in ((StageStatus.STOPPED, StageStatus.DONE) if begun else (StageStatus.WAITING,))
        assert all(source.status is not StageStatus.RUNNING for source in view.sources)
    assert {name for name, status in seen if status is StageStatus.STOPPED} >= {"ingest", "search", "converge"}


def test_trainings_without_a_driver_are_interrupted_and_not_running(views: list[CampaignView]) -> None:
    candidates = {c.status for view in views for c in view.candidates}
    members = {m.status for view in views for m in view.members}
    assert INTERRUPTED in candidates & members
    assert "running" not in candidates | members
