"""A campaign whose members are chosen by stored errors: the ranking is in the journal, and a replay repeats it."""

from __future__ import annotations

import shutil

import pretended
import pytest
import runs

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.contracts.attempts.stored_errors import ERRORS_FILE

WORKFLOW = pretended.WORKFLOW.replace("  members: 2", "  selection: greedy\n  members: 2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("greedy")
    runs.finish(folder, *pretended.write_campaign(folder, WORKFLOW))
    return folder


def of(folder, kind):
    return [e for e in runs.events(pretended.journal_of(folder)) if isinstance(e, kind)]


def test_the_members_are_those_of_the_ranking(finished):
    (ranked,) = of(finished, ev.EnsembleRanked)
    (selected,) = of(finished, ev.MembersSelected)
    assert {m.candidate for m in selected.members} == set(ranked.weights)
    assert [m.objective for m in selected.members] == sorted(m.objective for m in selected.members)
    assert len(ranked.digests) == 4
    assert ranked.weights.keys() | ranked.left_out.keys() == ranked.digests.keys()
    assert "ranked by stored errors" in runs.output(finished, "logs", "campaigns/pretended")
    plan = runs.output(finished, "plan", "w.yaml", "--site", "site.yaml")
    assert "kB of validation errors each" in plan
    for why in selected.passed_over.values():
        assert "its weight in the ensemble is zero" in why


def test_a_replay_repeats_the_ranking_and_finds_a_changed_file(finished, tmp_path, capsys):
    shutil.copytree(finished / "campaigns", tmp_path / "campaigns", symlinks=True)
    campaign = pretended.campaign_of(tmp_path)
    assert invoke(["replay", str(campaign)]) == 0
    assert "1 rankings by stored errors" in capsys.readouterr().out
    files = sorted(campaign.glob(f"stages/search-*/**/*-r1/{ERRORS_FILE}"))  # of the last rung: those were read
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:-1] + b"x")
    assert invoke(["replay", str(campaign)]) == 5
    assert f"{ERRORS_FILE} was changed" in capsys.readouterr().err
    files[0].write_bytes(whole)
    for file in files:
        file.unlink()
    assert invoke(["replay", str(campaign)]) == 0
    assert "files of stored errors are removed" in capsys.readouterr().out


def test_earlier_results_without_stored_errors_are_used_as_by_the_best(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "copy", symlinks=True)
    runs.finish(tmp_path / "copy", *pretended.write_campaign(tmp_path / "copy", WORKFLOW))
    (ranked,) = of(tmp_path / "copy", ev.EnsembleRanked)
    assert ranked.weights == {}
    assert set(ranked.unread.values()) == {"its training stored no errors"}
    before, after = of(tmp_path / "copy", ev.MembersSelected)
    assert [m.candidate for m in before.members] == [m.candidate for m in after.members]
