"""Answers for programs: every command that has --json is declared, documented, and answers as declared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest
from workflow_cases import VALID

from gfm_pipeline.cli.main import cli, invoke
from gfm_pipeline.cli.support.answers import ANSWERS, page

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests/reliability/fixtures/campaign-v1/campaign"
SILENT = {"completion", "schema", "sites schema"}  # print what is for a program as it is


def commands(group: click.Group, path: str = "") -> dict[str, click.Command]:
    context, found = click.Context(group), {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= commands(command, f"{path}{name} ")
        elif not command.hidden:
            found[path + name] = command
    return found


def test_every_command_that_answers_does_so_in_json_and_is_declared():
    with_json = {n for n, c in commands(cli).items() if any("--json" in p.opts for p in c.params)}
    assert with_json == set(ANSWERS)
    assert commands(cli).keys() - with_json == SILENT


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "json.md").read_text() == page(), (
        "write it anew: python -m gfm_pipeline.cli.support.answers > docs/json.md"
    )


@pytest.mark.parametrize("command", sorted(ANSWERS))
def test_each_schema_is_printed(command, capsys):
    assert invoke(["schema", "--answer", command]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(ANSWERS[command].keys())


def test_a_schema_of_no_answer_is_refused(capsys):
    assert invoke(["schema", "--answer", "stat"]) == 2
    assert "status" in capsys.readouterr().err


CASES = {
    "clean": ("clean", "c"),
    "list": ("list", "c"),
    "logs": ("logs", "c", "-n", "1"),
    "plan": ("plan", "w.yaml", "--show-scripts"),
    "replay": ("replay", "c"),
    "report": ("report", "c", "--output", "out"),
    "sites list": ("sites", "list"),
    "status": ("status", "c"),
    "unlock": ("unlock", "c"),
    "cancel": ("cancel", "c"),
    "validate": ("validate", "w.yaml"),
    "verify": ("verify", "c", "--quick"),
    "why": ("why", "w.yaml", "search"),
}


@pytest.mark.parametrize("command", CASES)
def test_answers_have_the_declared_keys(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RECORDED, tmp_path / "c")
    (tmp_path / "w.yaml").write_text(VALID)
    assert invoke([*CASES[command], "--json"]) in (0, 5)  # 5: steps of the recorded campaign were left out
    assert list(json.loads(capsys.readouterr().out)) == list(ANSWERS[command].keys())
