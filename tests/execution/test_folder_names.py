"""Command lines and scripts in folders of any name: read by the shell that will read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from site_cases import HOSTS, PLAIN, TILES, site

from gfm_pipeline.apps.runtime.launch import Launch, command_line
from gfm_pipeline.execution.executors import build_executor
from gfm_pipeline.execution.interchange import in_folder
from gfm_pipeline.execution.pools import pool_commands
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.batch import BatchJob, block_script
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.task_shape import TaskShape

ODD = ("my drive", "it's", '"$HOME" & {x} {{y}} % ;', "a=b[1]*?`id`\\n #~!", "größe, a:b\nand a line")
SHARED = SizeClass(TaskShape(0, 1, 0, 0), LaunchStrategy.SPAWN, per_node=2)
WHOLE = SizeClass(TaskShape(1, 1, 0, 0), LaunchStrategy.STEP)
TELL = """\
import json, os, sys
with open(os.environ["TOLD"], "w") as stream:
    json.dump({"words": sys.argv[1:], "nodes": os.environ.get("PBS_NODEFILE")}, stream)
"""


@pytest.fixture
def interpreter(request, tmp_path, monkeypatch) -> Path:
    """Put an interpreter that only notes its arguments into a folder of an odd name; return the folder."""
    folder = tmp_path / request.getfixturevalue("name")
    folder.mkdir()
    python = folder / "python"
    (tmp_path / "tell.py").write_text(TELL)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {tmp_path}/tell.py "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return folder


def told(text: str | list[str], tmp_path: Path) -> dict:
    words = ["bash", "-c", text] if isinstance(text, str) else text
    environment = {**os.environ, "TOLD": str(tmp_path / "told.json")}
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "told.json").read_text())


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("size", [SHARED, WHOLE], ids=["shared", "whole"])
def test_a_pool_gets_its_folders_as_they_are_named(name, size, interpreter, tmp_path):
    machine = site(PLAIN)
    executor = build_executor(machine, size, 1)
    executor.run_dir = str(interpreter)
    executor.cert_dir, executor.logconf_path = f"{executor.logdir}/keys", None
    executor.worker_port = 55000
    executor.initialize_scaling()
    (command,) = pool_commands(machine, [(size, executor)], "b001", (), interpreter / "nodes")
    found = told(command.text, tmp_path)
    words = found["words"]
    assert "gfm_pipeline.apps.runtime.forked_pool" in words[:3]
    assert words[words.index("--cert_dir") + 1] == executor.cert_dir
    assert f"--logdir={executor.logdir}" in words
    assert any(w.startswith("--block_id=b001") for w in words)
    if size.whole:
        assert found["nodes"] == str(interpreter / "nodes")


@pytest.mark.parametrize("name", ODD)
def test_the_wrapper_starts_an_interpreter_of_any_name(name, interpreter, tmp_path):
    launch = Launch("a.module", str(tmp_path), 60.0, {"ODD": name})
    assert told(command_line(launch), tmp_path)["words"][-2:] == ["a.module", "spec.json"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", ["slurm", "pbs"])
def test_a_batch_script_writes_where_it_is_told(name, kind, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    machine = site(HOSTS if kind == "slurm" else TILES)
    job = BatchJob(
        "a-b001", 1, 1.0, "all" if kind == "slurm" else "prod", None, str(folder), str(folder / "a-b001.out")
    )
    script = block_script(machine, job, ["pwd"], str(folder / "nodes"))
    directives = [line for line in script.splitlines() if line.startswith("#")]
    assert not [line for line in directives if "tmp" in line]  # no batch system has to read the path
    (tmp_path / "given").write_text("n1\n")
    before = f"scontrol() {{ echo n1; }}\nPBS_NODEFILE={tmp_path}/given\n"
    done = subprocess.run(["bash", "-c", before + script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert (folder / "a-b001.out").read_text() == f"{folder}\n"
    assert (folder / "nodes").read_text() == "n1\n"


@pytest.mark.parametrize("name", ODD)
def test_keys_are_found_in_a_folder_of_any_name(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    for file in ("client.key", "server.key", "client.key_secret"):
        (folder / file).touch()
    found = in_folder(f"{folder}/*.key")
    assert sorted(Path(f).name for f in found) == ["client.key", "server.key"]
