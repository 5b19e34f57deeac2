"""`plan`: what would run, on what; asks no batch system, writes nothing, and refuses what cannot run."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from site_cases import FRONTIER, PERLMUTTER, TILES
from workflow_cases import VALID

from gfm_pipeline.cli.main import invoke

ACCOUNT = ("--set", "site.scheduler.account=abc123")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return a folder with a workflow, site files, and batch system commands that must not be called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    (tmp_path / "w.yaml").write_text(VALID)
    for plain in (FRONTIER, PERLMUTTER, TILES):
        with open(tmp_path / f"{plain['name']}.yaml", "w") as stream:
            YAML(typ="safe").dump(plain, stream)
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "qsub", "qstat", "pbsnodes", "srun", "mpiexec"):
        (commands / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called-{name}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def unchanged(folder):
    """Hold that nothing was written and no batch system was asked."""
    before = set(folder.rglob("*"))
    yield
    assert set(folder.rglob("*")) == before


def planned(capsys, *arguments: str) -> dict:
    assert invoke(["plan", "w.yaml", "--json", *arguments]) == 0, capsys.readouterr().err
    found: dict = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("unchanged")
def test_a_plan_on_a_batch_machine(folder, capsys):
    plan = planned(capsys, "--site", "frontierlike.yaml", *ACCOUNT, "--nodes", "184", "--set", "search.wave=4")
    assert plan["allocation"] == {
        "nodes": 184,
        "spare": 1,
        "hours": 12.0,
        "queue": "batch",
        "account": "abc123",
        "blocks": 1,
        "bin": "184 to 9,472 nodes get 12 h",
        "warnings": [],
    }
    search = next(stage for stage in plan["stages"] if stage["name"] == "search")
    assert search["sizes"] == [
        {
            "nodes": 2,
            "ranks": 16,
            "ranks_per_node": 8,
            "gpus_per_rank": 1,
            "cores_per_rank": 7,
            "strategy": "step",
            "at_a_time": 91,
        }
    ]
    assert plan["slots"] == 91
    assert plan["mode"] == "resident"
    hours, kwh = plan["estimates"]["node_hours"], plan["estimates"]["kwh"]
    assert hours["value"] == 184 * 12
    assert kwh["value"] == pytest.approx(184 * 12 * 2.5 * 1.1)
    assert "2500 W a node, PUE 1.1" in kwh["basis"]
    assert plan["estimates"]["storage_bytes"]["value"] > 0
    assert any("keeps at most 8 of 183 nodes busy" in line for line in plan["warnings"])
    assert not any("last rung" in line for line in plan["warnings"])
    assert "scripts" not in plan


@pytest.mark.usefixtures("unchanged")
def test_scripts_are_shown_on_demand(folder, capsys):
    scripts = planned(
        capsys, "--site", "frontierlike.yaml", *ACCOUNT, "--nodes", "4", "--hours", "1.5", "--show-scripts"
    )["scripts"]
    assert {"worker pools", "a training of 2 nodes, search"} < set(scripts)
    job = next(iter(scripts.values()))
    assert "#SBATCH -N 4\n#SBATCH -t 01:30:00\n" in job
    assert "#SBATCH --signal=B:USR1@300" in job
    assert job.splitlines()[-1].startswith("exec ")
    line = scripts["a training of 2 nodes, search"]
    assert line.startswith("srun --nodes=2 --ntasks=16 ")
    assert "gfm_pipeline.apps.runtime.rank" in line
    assert invoke(["plan", "w.yaml", "--site", "perlmutterlike.yaml", *ACCOUNT, "--show-scripts"]) == 0
    shown = capsys.readouterr().out
    assert "a block of nodes" in shown
    assert "#SBATCH -q regular" in shown
    assert invoke(["plan", "w.yaml", "--site", "tiles.yaml", *ACCOUNT, "--show-scripts"]) == 0
    assert "#PBS -l select=" in capsys.readouterr().out


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("machine", ["frontierlike", "perlmutterlike", "tiles"])
def test_scripts_hold_no_secret_of_the_environment(folder, capsys, monkeypatch, machine):
    """And no variable at all that the site does not name: the job gets its environment from its profile."""
    monkeypatch.setenv("SECRET_TOKEN", "hush-9f2c")
    scripts = planned(capsys, "--site", f"{machine}.yaml", *ACCOUNT, "--show-scripts")["scripts"]
    shown = "\n".join(scripts.values())
    assert "hush-9f2c" not in shown
    assert "SECRET_TOKEN" not in shown


@pytest.mark.usefixtures("unchanged")
def test_the_job_is_asked_for_what_was_asked_here(folder, capsys):
    scripts = planned(
        capsys, "--site", "frontierlike.yaml", *ACCOUNT, "--set", "search.candidates=5", "--show-scripts"
    )["scripts"]
    words = shlex.split(next(iter(scripts.values())).splitlines()[-1].removeprefix("exec "))
    assert words[words.index("-m") :][:4] == ["-m", "gfm_pipeline", "run", str(folder / "w.yaml")]
    for word in ("site.scheduler.account=abc123", "search.candidates=5"):
        assert words[words.index(word) - 1] == "--set"
    assert Path(words[words.index("--site") + 1]) == folder / "frontierlike.yaml"


@pytest.mark.usefixtures("unchanged")
def test_a_launch_of_many_trainings_is_shown(folder, capsys):
    few = ("--set", "site.launch.max_steps=2", "--set", "site.launch.max_sub_node_nodes=1")
    small = ("--set", "search.space.batch_size=[8]", "--set", "search.wave=16", "--set", "search.candidates=64")
    scripts = planned(capsys, "--site", "frontierlike.yaml", *ACCOUNT, *few, *small, "--nodes", "8", "--show-scripts")
    line = scripts["scripts"]["a launch of 8 trainings, search"]
    assert line.startswith("srun --nodes=4 --ntasks=32 ")
    assert line.endswith("python -P -m gfm_pipeline.apps.runtime.rank")


@pytest.mark.usefixtures("unchanged")
def test_a_laptop_needs_no_script(folder, capsys):
    assert invoke(["plan", "w.yaml", "--show-scripts"]) == 0
    shown = capsys.readouterr().out
    assert "no batch system" in shown
    assert "On this machine" in shown


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("site", "arguments", "words"),
    [
        ("frontierlike.yaml", [], ["frontierlike.yaml", "need an account", "--set site.scheduler.account=NAME"]),
        ("frontierlike.yaml", [*ACCOUNT, "--queue", "bacth"], ["allocation.queue", "'bacth'", "Did you mean 'batch'?"]),
        (
            "frontierlike.yaml",
            [*ACCOUNT, "--nodes", "9473"],
            ["allocation.nodes", "9,472 nodes", "9,472 nodes or fewer"],
        ),
        (
            "frontierlike.yaml",
            [*ACCOUNT, "--nodes", "91", "--hours", "12"],
            ["allocation.hours", "91 nodes or fewer get 2 h in queue batch", "for 184 nodes to get 12 h"],
        ),
        (
            "frontierlike.yaml",
            [*ACCOUNT, "--hours", "0.08"],
            ["allocation.hours", "0.08 h (288 s) does nothing", "leaves 300 s", "0.1 h or more"],
        ),
        (
            "frontierlike.yaml",
            [*ACCOUNT, "--set", "resources.search.ranks_per_node=3"],
            ["resources.search.ranks_per_node", "3 ranks do not divide the 8 GPUs", "2 or 4"],
        ),
        (
            "frontierlike.yaml",
            [*ACCOUNT, "--nodes", "100", "--set", "resources.converge.nodes=82"],
            ["resources.converge.nodes", "656 ranks", "2 nodes or fewer"],
        ),
        (
            "frontierlike.yaml",
            [*ACCOUNT, "--nodes", "2", "--set", "resources.search.nodes=[0, 4]"],
            ["resources.search.nodes", "4 nodes does not fit an allocation of 2"],
        ),
        ("frontierlike.yaml", [*ACCOUNT, "--set", "resources.search.nodes=[1]"], ["1 sizes for the 2 search.rungs"]),
        ("frontierlike.yaml", [*ACCOUNT, "--set", "resources.ingest.nodes=2"], ["resources.ingest.nodes"]),
        ("frontierlike.yaml", ["--set", "site.scheduler.acount=x"], ["acount", "account"]),
        ("fronteir", [], ["Unknown site 'fronteir'", "'frontier'"]),
        ("local", ["--nodes", "2"], ["local has 1 node, not 2", "1 node or fewer"]),
        ("local", ["--set", "allocation.nods=2"], ["allocation.nods", "nodes"]),
        ("local", ["--set", "resources.serch.nodes=2"], ["serch", "search"]),
    ],
)
def test_the_impossible_is_refused_at_plan(site, arguments, words, folder, capsys):
    assert invoke(["plan", "w.yaml", "--site", site, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    for word in words:
        assert word in said.err


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("arguments", [["--nodes", "0"], ["--nodes", "many"], ["--hours", "-1"]])
def test_options_have_types(arguments, folder, capsys):
    assert invoke(["plan", "w.yaml", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err


def test_what_the_workflow_file_says_is_pointed_at_by_line(folder, capsys):
    (folder / "w.yaml").write_text(VALID + "allocation:\n  nodes: 91\n  hours: 12\n")
    line = VALID.count("\n") + 3
    assert invoke(["plan", "w.yaml", "--site", "frontierlike.yaml", *ACCOUNT]) == 2
    assert f"w.yaml:{line}: 91 nodes or fewer get 2 h" in capsys.readouterr().err


def test_options_win_over_the_file(folder, capsys):
    (folder / "w.yaml").write_text(VALID + "allocation: {nodes: 4, queue: debug}\n")
    plan = planned(capsys, "--site", "frontierlike.yaml", *ACCOUNT, "--nodes", "6")
    assert (plan["allocation"]["nodes"], plan["allocation"]["queue"]) == (6, "debug")
    assert any("forbids chains" in line for line in plan["warnings"])
