"""The pages for people: their commands exist with the options shown, and their site files are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from workflow_cases import VALID

from gfm_pipeline.cli.main import cli, invoke
from gfm_pipeline.sites.cores import parse_cores
from gfm_pipeline.sites.registry import load_site

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/sites.md", "docs/add-a-site.md", "docs/reliability.md"]
SITES = (ROOT / "docs/sites.md").read_text()
# Section of docs/sites.md: what its first YAML block is laid over.
SECTIONS = re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", SITES, re.MULTILINE | re.DOTALL)
MACHINES = ["frontier", "perlmutter", "aurora", "polaris", "lumi"]


@pytest.fixture(autouse=True)
def user(monkeypatch, tmp_path) -> Path:
    """Return the user's folder of sites, within the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "gfm-pipeline" / "sites"
    folder.mkdir(parents=True)
    return folder


def commands(page: str) -> list[str]:
    """Return the command lines of a page's indented blocks that call the program."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / page).read_text())
    lines = re.findall(r"^    (?:.*&& )?(gfm-pipeline .*?)(?:[ ]{2,}.*|[ ]#.*)?$", text, re.MULTILINE)
    return [line for line in lines if ", or " not in line]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_typed(page):
    found = commands(page)
    assert found or page != "docs/sites.md"
    for line in found:
        arguments = shlex.split(line.partition(" > ")[0])[1:]
        command: click.Command = cli
        while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
            inner = command.get_command(click.Context(command), arguments[0])
            assert inner is not None, f"{page}: {line}"
            command, arguments = inner, arguments[1:]
        if arguments == ["--help"]:
            continue
        try:
            command.make_context(line, arguments)
        except click.ClickException as error:
            pytest.fail(f"{page}: {line}: {error.format_message()}")


@pytest.mark.parametrize("machine", MACHINES)
def test_overlay_of_a_machine_is_valid_and_names_what_plan_needs(machine, user):
    body = next(body for title, body in SECTIONS if title.lower().startswith(machine))
    blocks = re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)
    assert len(blocks) == 1
    (user / f"{machine}.yaml").write_text(blocks[0])
    site = load_site(machine).model
    assert site.scheduler.account
    assert site.profiles[site.profile].activate
    for line in commands("docs/sites.md"):
        queue = re.search(rf"--site {machine} .*--hours (\S+) --queue (\S+)", line)
        if queue:
            bins = site.scheduler.queues[queue[2]].bins
            assert any(b.min_nodes <= 2 <= b.max_nodes and b.max_hours >= float(queue[1]) for b in bins), line


def test_example_of_a_cluster_is_valid(user):
    body = next(body for title, body in SECTIONS if title == "Any machine with Slurm")
    (user / "mine.yaml").write_text(re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)[0])
    assert load_site("mine").model.node.gpus == 4


def blue(folder: Path) -> Path:
    """Write the worked example of the page on adding a site; return its path."""
    page = (ROOT / "docs/add-a-site.md").read_text().partition("## A worked example")[2]
    (folder / "blue.yaml").write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    (folder / "workflow.yaml").write_text(VALID)
    return folder / "blue.yaml"


def test_the_commands_of_the_worked_example_show_what_its_file_says(tmp_path, monkeypatch, capsys):
    site = load_site(str(blue(tmp_path))).model
    cores = [core for text in site.node.gpu_cores for core in parse_cores(text)]
    assert sorted([*cores, *site.node.reserved_cores]) == list(range(site.node.cores))
    monkeypatch.chdir(tmp_path)
    shown = ""
    for line in (line for line in commands("docs/add-a-site.md") if "blue.yaml" in line):
        assert invoke(shlex.split(line)[1:]) == 0, capsys.readouterr().err
        shown += capsys.readouterr().out
    (script,) = re.findall(r"^#!/bin/bash$(.*?)^exec ", shown, re.MULTILINE | re.DOTALL)
    for words in (
        "#SBATCH -A faculty",
        "#SBATCH -p gpu\n",
        "#SBATCH -N 4",
        "module load cuda/12",
        "/shared/gfm-env/bin",
    ):
        assert words in script
    assert "srun --nodes=4 --ntasks=16 --ntasks-per-node=4 --cpus-per-task=31 --gpus-per-node=4" in shown
    assert "queue short, account faculty" in shown


def test_the_worked_example_refuses_what_neither_of_its_queues_takes(tmp_path, monkeypatch, capsys):
    blue(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert invoke(["plan", "workflow.yaml", "--site", "blue.yaml", "--nodes", "16", "--hours", "12"]) == 2
    assert (
        "takes at most 8 nodes, not 16. Ask for 8 nodes, or use queue short (16 nodes: 2 h)" in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["slurm", "pbs"])
def test_example_in_the_head_of_a_generic_site_is_valid(name, tmp_path):
    text = load_site(name).main.read_text()
    example = "\n".join(line[4:] for line in text.splitlines() if line.startswith("#   "))
    example = example.replace("[...]", "[srun]")
    assert f"extends: {name}" in example
    (tmp_path / "x.yaml").write_text(example)
    assert load_site(str(tmp_path / "x.yaml")).model.scheduler.account == "abc123"


def test_settings_of_the_pages_are_accepted():
    found = [s for page in PAGES for s in re.findall(r"--set (site\.[\w.]+=[\w.]+)", (ROOT / page).read_text())]
    real = [setting for setting in found if not re.search(r"[A-Z]{3}", setting)]  # KEY=VALUE stands for others
    assert real
    for setting in real:
        load_site("local", sets=[setting])


def test_overlays_within_sentences_are_accepted(tmp_path):
    """Text such as `scheduler: {directives: [...]}` on a machine's page."""
    seen = 0
    for title, body in SECTIONS:
        machine = title.split(" ")[0].lower()
        for number, text in enumerate(re.findall(r"`((?:scheduler|staging|node|profiles): \{.*?\})`", body, re.DOTALL)):
            overlay = tmp_path / f"{machine}{number}.yaml"
            overlay.write_text(re.sub(r"\s+", " ", text))
            load_site(machine if machine in MACHINES else "slurm", [overlay])
            seen += 1
    assert seen >= 3
