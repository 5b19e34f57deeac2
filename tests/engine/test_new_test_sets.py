"""A test set that is added or changed is read and judged; nothing is trained again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ase.build import molecule
from ase.io import write

from gfm_pipeline.api.run_request import ResolvedRun, resolve
from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.decide import opening, taken_over
from gfm_pipeline.engine.stages.ingest import Ingest
from gfm_pipeline.engine.stages.table import NAMES

SOURCES = {"a": {"reader": "ase", "files": "a.xyz"}, "b": {"reader": "ase", "files": "b.xyz"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "hot", "cold"):
        write(tmp_path / f"{name}.xyz", molecule("H2O"))
    return tmp_path


def resolved(folder: Path, sources: dict[str, Any]) -> ResolvedRun:
    plain = {"name": "c", "data": {"sources": sources}, "search": {"candidates": 4, "space": {"algorithm": ["SchNet"]}}}
    (folder / "w.yaml").write_text(json.dumps(plain))
    return resolve(folder / "w.yaml", "local", folder / "campaign", ())


def with_sets(sources: dict[str, Any], **sets: str) -> dict[str, Any]:
    return {**sources, "a": {**sources["a"], "test_sets": {k: f"{v}.xyz" for k, v in sets.items()}}}


def openings(request: ResolvedRun) -> dict[str, ev.StageOpened]:
    """Return the opening of each stage, if every dataset depends on the files of its source alone."""
    state, found = CampaignState(), {}
    for name in NAMES:
        opened = opening(request.context, state, name)
        assert opened is not None
        found[name] = opened
        state.apply(opened, 0.0)
        outputs = {"all": f"made from {opened.key}"}
        if name == "ingest":
            outputs = {s.name: f"dataset of {s.files}" for s in request.context.sources}
        state.apply(ev.StageDone(opened.key, outputs), 1.0)
    return found


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_new_test_set_changes_the_keys_of_ingest_and_calibration_alone(folder: Path, names: str) -> None:
    sources = {name: SOURCES[name] for name in names}
    before, one, two = (
        openings(resolved(folder, some))
        for some in (sources, with_sets(sources, t="hot"), with_sets(sources, t="hot", u="cold"))
    )
    for earlier, later in ((before, one), (one, two)):
        different = [name for name in NAMES if earlier[name].key != later[name].key]
        assert different == ["ingest", "calibrate"]


@pytest.mark.parametrize("names", ["a", "ab"])
def test_datasets_and_unchanged_test_sets_are_taken_over(folder: Path, names: str) -> None:
    sources = {name: SOURCES[name] for name in names}
    first = resolved(folder, with_sets(sources, t="hot"))
    state = CampaignState()
    opened = opening(first.context, state, "ingest")
    assert opened is not None
    state.apply(opened, 0.0)
    tasks = [f"{kind}-{s}{end}" for s in ("a@t", *names) for kind, end in (("read", "-00000"), ("assemble", ""))]
    for task in tasks:
        state.apply(ev.TaskStarted(opened.key, task, 1), 1.0)
        state.apply(ev.TaskEnded(opened.key, task, 1, ev.AttemptOutcome.OK, 1.0, result={"digest": task}), 2.0)
    state.apply(ev.StageDone(opened.key, {s: s for s in ("a@t", *names)}), 3.0)

    def taken(sources: dict[str, Any]) -> set[str]:
        wanted = opening(resolved(folder, sources).context, state, "ingest")
        assert wanted is not None
        found = taken_over(state, Ingest(), wanted)
        return set() if found is None else set(found.tasks)

    last = {"assemble-b"} if names == "ab" else set()  # is compared with the other sources
    assert taken(with_sets(sources, t="hot", u="cold")) >= set(tasks) - last
    assert taken(with_sets(sources, t="cold")) >= {t for t in tasks if "@" not in t} - last
    assert not {t for t in taken(with_sets(sources, t="cold")) if "@" in t}
    other = {**sources, "a": {**sources["a"], "max_force": 3.0}}
    assert "assemble-a@t" not in taken(with_sets(other, t="hot"))
    assert "read-a@t-00000" in taken(with_sets(other, t="hot"))
