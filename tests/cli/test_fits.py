"""What fits: stages up to one, what a submission may cost, and nodes that nobody would use."""

from __future__ import annotations

import json
import sys

import pytest
import site_cases
from ruamel.yaml import YAML

from gfm_pipeline.cli.main import invoke

WORKFLOW = {
    "name": "wide",
    "data": {"sources": {"a": {"reader": "emt-alloys"}}},
    "search": {
        "candidates": 64, "wave": 16, "rungs": [100, 200],
        "space": {"algorithm": ["SchNet"], "batch_size": 64},
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text(json.dumps(WORKFLOW))
    with open(tmp_path / "wide.yaml", "w") as stream:
        YAML().dump(site_cases.FRONTIER_PAID | {"driver": {"mode": "resident", "interface": "hsn0"}}, stream)
    return tmp_path


def asked(capsys, *words: str) -> tuple[int, str, str]:
    code = invoke(list(words))
    told = capsys.readouterr()
    return code, told.out, told.err


WIDE = ("w.yaml", "--site", "wide.yaml", "--nodes", "8192", "--set", "resources.search.nodes=1")


def test_a_plan_that_keeps_few_of_many_nodes_busy_is_refused_with_the_fix(folder, capsys):
    for command in ("plan", "submit"):
        code, _, error = asked(capsys, command, *WIDE)
        assert code == 2
        assert "keeps at most 64 of 8,192 nodes busy" in error
        assert "allocation.nodes" in error or "--nodes" in error
    fix = error.partition("Ask for ")[2].partition(" nodes")[0].replace(",", "")
    code, _, error = asked(capsys, "plan", *WIDE[:4], fix, *WIDE[5:])
    assert code == 0, error
    assert not (folder / "campaigns").exists()


def test_submit_says_the_price_and_asks_before_a_large_one(folder, capsys, monkeypatch):
    large = ("w.yaml", "--site", "wide.yaml", "--nodes", "184", "--hours", "12", "--set", "resources.search.nodes=8")
    code, out, error = asked(capsys, "submit", *large)
    assert code == 2
    assert "184 nodes for at most 12 h: 2,208 node-hours" in out
    assert "Add --yes" in error
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert "Nothing was submitted" in asked(capsys, "submit", *large)[2]
    assert not (folder / "campaigns").exists()
    submitted = []
    monkeypatch.setattr("gfm_pipeline.cli.submit.submit_campaign", lambda request, *_: submitted.append(request))
    assert asked(capsys, "submit", *large, "--yes")[0] == 0
    monkeypatch.setattr("click.confirm", lambda *_, **__: True)
    assert asked(capsys, "submit", *large)[0] == 0
    assert len(submitted) == 2


def test_until_a_stage_that_is_none_is_refused(folder, capsys):
    code, _, error = asked(capsys, "run", "w.yaml", "--until", "serch")
    assert code == 2
    assert "serch" in error
    assert "search" in error
    assert not (folder / "campaigns").exists()
