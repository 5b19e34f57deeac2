"""A campaign may be run up to a stage, and go on later."""

from __future__ import annotations

import pretended
import runs

from gfm_pipeline.campaign import events as ev


def opened(folder) -> list[str]:
    return [e.stage for e in runs.events(pretended.journal_of(folder)) if isinstance(e, ev.StageOpened)]


def test_it_ends_with_the_stage_and_goes_on_later(tmp_path):
    words = pretended.write_campaign(tmp_path, pretended.SHORT)
    runs.finish(tmp_path, *words, "--until", "ingest")
    assert opened(tmp_path) == ["ingest"]
    assert "Stage ingest is done" in (tmp_path / "driver.log").read_text()
    runs.finish(tmp_path, *words, "--until", "ingest")
    assert opened(tmp_path) == ["ingest"]
    runs.finish(tmp_path, *words)
    assert opened(tmp_path) == ["ingest", "search", "converge", "calibrate"]
