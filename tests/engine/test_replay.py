"""Every decision of a search follows from its journal; one that does not is named."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from test_decide import context, drive

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import Entry, encode, read
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.engine.decisions.proposals import propose_wave
from gfm_pipeline.engine.decisions.replay import replayed

FIXTURES = Path(__file__).parents[1] / "reliability" / "fixtures"
RECORDED = sorted(p.name for p in FIXTURES.iterdir())


def copy_of(name, folder):
    """Copy the journal of a recorded campaign, and nothing else of it."""
    (folder / "campaign").mkdir(parents=True)
    shutil.copy(FIXTURES / name / "campaign" / "journal.jsonl", folder / "campaign")
    return folder


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_campaign_decided_what_its_journal_says(name, tmp_path, capsys):
    folder = copy_of(name, tmp_path / "old")
    assert invoke(["replay", str(folder / "campaign")]) == 0
    assert "1 choices of members" in capsys.readouterr().out


def test_an_algorithm_that_is_not_installed_any_more_is_one_sentence(tmp_path, capsys):
    file = copy_of(RECORDED[0], tmp_path / "old") / "campaign" / "journal.jsonl"
    text = [json.dumps(asdict(entry)).replace('"SchNet"', '"Ghost"') for entry in read(file)]
    file.write_bytes(b"".join(encode(Entry(**json.loads(line))) for line in text))
    assert invoke(["replay", str(file.parent)]) == 5
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "journal.jsonl: this version cannot read the settings of the search" in sentence
    assert "space.algorithm cannot be Ghost: there is no algorithm 'Ghost'. Replay" in sentence


def journal(events, folder) -> CampaignPaths:
    """Write a campaign's journal, and nothing else."""
    paths = CampaignPaths(folder)
    created = ev.CampaignCreated(1, "w", "0")
    entries = [Entry(n, float(n), *ev.to_entry(event)) for n, event in enumerate([created, *events])]
    paths.journal.write_bytes(b"".join(map(encode, entries)))
    return paths


@pytest.mark.parametrize("stopping", ["asha", "none"])
def test_a_search_of_several_waves_is_derived_from_results_that_came_in_any_order(stopping, tmp_path):
    situation = context(3, search__candidates=14, search__rungs=[10, 20, 30], search__stopping=stopping)
    events = drive(situation, random.Random(4), propose=propose_wave)
    counts = replayed(journal(events, tmp_path))
    assert counts == {"waves of candidates": 5, "decisions at rungs": 10, "choices of members": 1}


def test_a_search_of_two_objectives_promotes_by_fronts_and_is_derived_again(tmp_path):
    changes = {"search__candidates": 8, "search__rungs": [10, 20], "search__objective": ["error", "seconds"]}
    situation = context(3, **changes)
    events = drive(situation, random.Random(4), propose=propose_wave)
    stopped = [why for e in events if isinstance(e, ev.RungDecided) for why in e.stopped.values()]
    assert stopped
    assert all("by Pareto fronts of error and seconds" in why for why in stopped)
    assert replayed(journal(events, tmp_path))["decisions at rungs"] >= 2


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("wave-proposed", lambda data: data["candidates"][0]["settings"].update(hidden=5), "candidates"),
        ("wave-proposed", lambda data: data.update(told=7), "told: 7 -> 0"),
        ("rung-decided", lambda data: data["stopped"].update(c00001="it was slow"), "stopped"),
        ("members-selected", lambda data: data["members"].reverse(), "members"),
    ],
)
def test_the_first_decision_that_does_not_follow_is_named(kind, change, said, tmp_path):
    folder = copy_of(RECORDED[0], tmp_path / "old")
    path = folder / "campaign" / "journal.jsonl"

    entries = list(read(path))
    change(next(e for e in entries if e.kind == kind).data)
    path.write_bytes(b"".join(map(encode, entries)))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if f'"kind":"{kind}"' in text)
    with pytest.raises(IntegrityError, match=f"journal.jsonl:{line}: this decision does not follow") as refused:
        replayed(CampaignPaths(folder / "campaign"))
    assert said in str(refused.value)
