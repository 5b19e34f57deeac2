"""What a changed setting does to a campaign that is done: what it invalidates, extends or leaves, asked one by one.

The table is that of docs/changing-settings.md; the first column of a row there names the settings of one here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pretended
import pytest
import runs
from identity_cases import leaves
from results_tables import results_of
from ruamel.yaml import YAML

from gfm_pipeline.api.run_request import resolve
from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.engine.decisions.decide import opening, taken_over
from gfm_pipeline.engine.stages.table import BUILT_IN
from gfm_pipeline.workflow.schema import WorkflowModel

PAGE = Path(__file__).parents[2] / "docs" / "changing-settings.md"
INVALIDATES, EXTENDS, LEAVES = "invalidates", "extends", "leaves"

# Setting -> changed value, what that does, and to which stage first.
CHANGES: dict[str, tuple[Any, str, str]] = {
    "data.sources.alloys.citation": ("doi:10.1/x", LEAVES, ""),
    "data.sources.alloys.licence": ("MIT", LEAVES, ""),
    "data.sources.alloys.level_of_theory": ("EMT", LEAVES, ""),
    "data.sources.alloys.shards": (3, LEAVES, ""),
    "data.shard_mb": (64, LEAVES, ""),
    "data.sources.more": ({"reader": "emt-alloys", "options": {"parents": 40}}, EXTENDS, "ingest"),
    "data.sources.alloys.test_sets": ({"hot": {"reader": "ase", "files": "results.csv"}}, EXTENDS, "ingest"),
    "data.validation": (0.2, EXTENDS, "ingest"),
    "data.test": (0.2, EXTENDS, "ingest"),
    "data.max_quarantined": (0.5, EXTENDS, "ingest"),
    "data.edges": ("stored", EXTENDS, "ingest"),
    "data.split_across_sources": ("together", EXTENDS, "ingest"),
    "data.sources.alloys.max_force": (30, INVALIDATES, "ingest"),
    "seed": (6, INVALIDATES, "ingest"),
    "search.candidates": (6, EXTENDS, "search"),
    "search.rungs": ([100, 300], EXTENDS, "search"),
    "search.validation_limit": (10, EXTENDS, "search"),
    "converge.members": (3, EXTENDS, "search"),
    "converge.max_per_algorithm": (2, EXTENDS, "search"),
    "converge.selection": ("diverse", EXTENDS, "search"),
    "search.wave": (1, INVALIDATES, "search"),
    "search.asynchronous": (True, INVALIDATES, "search"),
    "search.objective": (["error", "memory"], INVALIDATES, "search"),
    "search.max_memory_gb": (40.0, INVALIDATES, "search"),
    "search.reduction": (3, INVALIDATES, "search"),
    "search.stopping": ("none", INVALIDATES, "search"),
    "search.proposals": ("random", INVALIDATES, "search"),
    "search.warm_start": ("results.csv", INVALIDATES, "search"),
    "search.space": ({"algorithm": ["SchNet", "PNA"]}, INVALIDATES, "search"),
    "converge.criterion": ("limit", INVALIDATES, "converge"),
    "converge.check_every": (50, INVALIDATES, "converge"),
    "converge.patience": (5, INVALIDATES, "converge"),
    "converge.min_delta": (0.1, INVALIDATES, "converge"),
    "converge.max_graphs": (500, INVALIDATES, "converge"),
    "converge.anneal_fraction": (0.5, INVALIDATES, "converge"),
    "calibrate.level": (0.8, INVALIDATES, "calibrate"),
    "calibrate.uncertainty": ("llpr", INVALIDATES, "calibrate"),
    "resources.search.nodes": (1, LEAVES, ""),
    "allocation.hours": (3.0, LEAVES, ""),
    "limits.task_hours": (1.0, LEAVES, ""),
    "budget.trials": (100, LEAVES, ""),
}


def changed(**values: Any) -> str:
    """Return the workflow of pretended campaigns with other values, by dotted names."""
    plain = YAML(typ="safe").load(pretended.WORKFLOW)
    for dotted, value in values.items():
        *sections, last = dotted.split(".")
        node = plain
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return json.dumps(plain)


def effect(folder: Path, text: str) -> tuple[str, str]:
    """Return what a workflow does to the campaign below ``folder``, and to which stage first."""
    state = load_state(pretended.journal_of(folder))
    (folder / "changed.yaml").write_text(text)
    (folder / "results.csv").write_text(
        results_of(WorkflowModel.model_validate(json.loads(text)).search.space.compile())
    )
    context = resolve(folder / "changed.yaml", str(folder / "site.yaml"), pretended.campaign_of(folder), ()).context
    for stage in BUILT_IN:
        opened = opening(context, state, stage.name)
        assert opened is not None
        known = state.stages.get(opened.key)
        if known is None:
            taken = taken_over(state, stage, opened)
            return (EXTENDS if taken is not None else INVALIDATES), stage.name
        assert known.outputs is not None
    return LEAVES, ""


@pytest.mark.parametrize("dotted", CHANGES)
def test_a_changed_setting_does_what_the_table_says(uninterrupted, dotted):
    value, what, stage = CHANGES[dotted]
    assert effect(uninterrupted, changed(**{dotted: value})) == (what, stage)


def rows() -> dict[str, str]:
    """Return the effect of each setting that the page names."""
    found: dict[str, str] = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) >= 2:
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells[1])
    return found


def test_the_page_says_the_same_of_every_setting():
    told = rows()
    for dotted, (_, what, stage) in CHANGES.items():
        key = dotted.replace("sources.alloys", "sources.*").replace("sources.more", "sources")
        assert told[key].startswith(f"{what} {stage}".strip()), dotted


def test_the_page_names_every_setting_of_the_schema():
    groups = tuple(key.removesuffix("*") if key.endswith(".*") else f"{key}." for key in rows())
    assert [leaf for leaf in leaves(WorkflowModel) if not f"{leaf}.".startswith(groups)] == []


def test_more_of_everything_repeats_nothing(tmp_path):
    """Two more candidates, a longer last rung, other validation, another member: what is trained goes on from there."""
    words = pretended.write_campaign(tmp_path)
    runs.finish(tmp_path, *words)
    before = runs.events(pretended.journal_of(tmp_path))
    done = {e.task for e in before if isinstance(e, ev.TaskEnded) and e.outcome is ev.AttemptOutcome.OK}
    more = {"search.candidates": 5, "search.rungs": [100, 250], "search.validation_limit": 9, "converge.members": 3}
    more |= {"data.sources.alloys.shards": 4, "data.shard_mb": 32, "data.sources.alloys.citation": "us"}
    (tmp_path / "w.yaml").write_text(changed(**more))
    runs.finish(tmp_path, *words)
    new = runs.events(pretended.journal_of(tmp_path))[len(before) :]
    started = [e.task for e in new if isinstance(e, ev.TaskStarted)]
    assert not [task for task in started if task.startswith(("read", "assemble"))]
    assert {task for task in started if task.endswith("-r0")} == {"c00004-r0"}  # the new candidate alone
    opened = next(e for e in new if isinstance(e, ev.StageOpened) and e.stage == "search")
    assert opened.taken is not None
    longer = {task for task in started if task.endswith("-r1")}
    went_on = {task for task in done if task.endswith("-r1")}
    assert went_on == set(opened.taken.starts)
    assert went_on <= longer
    for task in went_on:  # trained on from 200 graphs, not from the rung before
        spec = next(
            pretended.campaign_of(tmp_path).glob(f"stages/search-{opened.key[:8]}*/tasks/{task}/attempt-1/spec.json")
        )
        assert json.loads(spec.read_text())["checkpoint"].endswith(task)
    state = load_state(pretended.journal_of(tmp_path))
    assert len(state.stage("search").members) == 3
    assert state.stage("calibrate").outputs
