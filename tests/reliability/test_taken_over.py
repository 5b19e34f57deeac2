"""Who is taken into the ensemble is chosen from results that are there: one member more repeats no training."""

from __future__ import annotations

import errno
import json
import subprocess
from dataclasses import replace

import pytest
import runs
from pretended import WORKFLOW, campaign_of, journal_of, write_campaign

from gfm_pipeline.campaign.events import MembersSelected, StageOpened, TakenOver, TaskStarted
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.publish import verify
from gfm_pipeline.engine.tasks.taken_over import link_taken

SIX = WORKFLOW.replace("candidates: 4", "candidates: 6")  # three of them reach the last rung


@pytest.fixture
def folder(tmp_path):
    """Run a campaign with two members."""
    runs.finish(tmp_path, *write_campaign(tmp_path, SIX))
    return tmp_path


def started(folder) -> list[str]:
    return [e.task for e in runs.events(journal_of(folder)) if isinstance(e, TaskStarted)]


def test_one_member_more_trains_that_member_alone(folder, tmp_path_factory):
    before = started(folder)
    planned = runs.command("plan", "w.yaml", "--site", "site.yaml", "--set", "converge.members=3", "--json")
    shown = subprocess.run(planned, cwd=folder, capture_output=True, text=True, check=True)
    search = json.loads(shown.stdout)["stages"][1]
    assert search["tasks_left"] == 0
    assert any("kept" in why for why in search["why"])
    runs.finish(folder, "run", "w.yaml", "--site", "site.yaml", "--set", "converge.members=3")
    first, second = (e.members for e in runs.events(journal_of(folder)) if isinstance(e, MembersSelected))
    again = [m.name for m in second if m not in first]
    more = started(folder)[len(before) :]
    assert sorted(more) == sorted([*again, *(f"predict-{m.name}" for m in second), "fit"])
    opened = [e for e in runs.events(journal_of(folder)) if isinstance(e, StageOpened) and e.taken is not None]
    assert [e.stage for e in opened] == ["search", "converge"]

    # the same numbers as of a campaign that had three members from the start
    whole = tmp_path_factory.mktemp("whole")
    command = write_campaign(whole, SIX)
    runs.finish(whole, *command, "--set", "converge.members=3")
    ensembles = [next(campaign_of(f).glob("stages/calibrate-*/ensemble"), None) for f in (whole,)]
    digest = verify(ensembles[0], digests=True).digest
    assert digest in {verify(p, digests=True).digest for p in campaign_of(folder).glob("stages/calibrate-*/ensemble")}

    runs.finish(folder, "verify", str(campaign_of(folder)))
    runs.finish(folder, "report", str(campaign_of(folder)))
    count = len(started(folder))
    runs.finish(folder, "run", "w.yaml", "--site", "site.yaml")  # back to two: all of it is there
    assert len(started(folder)) == count


def test_another_search_takes_over_nothing(folder):
    before = len(started(folder))
    runs.finish(folder, "run", "w.yaml", "--site", "site.yaml", "--set", "search.space.hidden=[8, 32]")
    assert len([t for t in started(folder)[before:] if t.startswith("c0")]) >= 4
    assert all(e.taken is None for e in runs.events(journal_of(folder)) if isinstance(e, StageOpened))


def test_without_symbolic_links_it_is_made_again(folder, tmp_path):
    opened = [e for e in runs.events(journal_of(folder)) if isinstance(e, StageOpened)]
    paths = CampaignPaths(campaign_of(folder))
    taken = TakenOver(opened[1].key, ("c00000-r0",), decisions=True)
    wanted = replace(opened[1], key="f" * 64, taken=taken)

    def refused(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathlib.Path.symlink_to", refused)
        assert link_taken(paths, wanted).taken is None
    assert link_taken(paths, wanted) == wanted
    assert (paths.stage("search", wanted.key).checkpoint("c00000-r0") / "manifest.json").exists()
