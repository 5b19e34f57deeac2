"""Nothing that lies in the folder one stands in is run, however Python is started."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gfm_pipeline.apps.runtime.launch import Launch, command_line
from gfm_pipeline.core import interpreter
from gfm_pipeline.core.interpreter import module_command, protect, script_command, without_current_folder
from gfm_pipeline.execution.executors import INTERCHANGE, POOL

ROOT = Path(__file__).parent.parent.parent
STDLIB = ("random", "select", "runpy", "json", "struct", "sitecustomize")
GFM = str(Path(sys.executable).parent / "gfm-pipeline")


@pytest.fixture
def hostile(tmp_path):
    """Return a folder of modules that shadow what every program imports, and note that they ran."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in (*STDLIB, "numpy", "click", "pydantic", "parsl", "gfm_pipeline"):
        (folder / f"{name}.py").write_text("open('PWNED', 'w').close()\nraise ImportError('mine')\n")
    (folder / "d.xyz").write_text(
        '1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-3.0 Lattice="4 0 0 0 4 0 0 0 4"\nCu 0 0 0 0 0 0\n'
    )
    (folder / "w.yaml").write_text(
        "name: small\ndata: {sources: {s: {reader: ase, files: d.xyz}}}\n"
        "search: {candidates: 2, rungs: [20, 40], space: {algorithm: [SchNet]}}\nconverge: {members: 1}\n"
    )
    return folder


def run(hostile: Path, command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        command, cwd=hostile, env={**plain, **environ}, capture_output=True, text=True, check=False, input="{}"
    )
    assert not (hostile / "PWNED").exists(), done.stderr
    return done


def program(*arguments: str) -> list[str]:
    launch = Launch("json.tool", "attempt", 60.0, {"PYTHONPATH": ":here:"}, spec=None)
    return [*command_line(launch), *arguments]


@pytest.mark.parametrize(
    "command",
    [
        [GFM, "ingest", "w.yaml", "--preview", "s"],
        [GFM, "dataset", "info", "."],
        module_command("gfm_pipeline", "--version"),
        [sys.executable, "-c", interpreter._WITHOUT_P, "gfm_pipeline", "--version"],
        module_command(POOL, "--help"),
        module_command(INTERCHANGE),
        program("--help"),
        script_command("import json, random, numpy"),
    ],
    ids=["preview", "dataset", "module", "python-3.10", "pool", "interchange", "program", "script"],
)
def test_a_module_in_the_current_folder_is_not_imported(hostile, command):
    done = run(hostile, command)
    assert "mine" not in done.stderr


def test_what_is_started_works(hostile):
    assert run(hostile, [GFM, "ingest", "w.yaml", "--preview", "s"]).returncode == 0
    older = [sys.executable, "-c", interpreter._WITHOUT_P, "gfm_pipeline", "--version"]
    for how in (module_command("gfm_pipeline", "--version"), older):
        done = run(hostile, how)
        assert (done.returncode, "gfm-pipeline" in done.stdout) == (0, True), done.stderr
    assert run(hostile, program("--help")).returncode == 0


def test_an_empty_entry_of_the_path_is_the_current_folder_and_is_left_out(hostile):
    assert without_current_folder(":a::b:") == "a:b"
    environ = {"PYTHONPATH": ":/nowhere"}
    protect(environ)
    assert environ == {"PYTHONPATH": "/nowhere", "PYTHONSAFEPATH": "1"}
    told = next(word for word in program() if word.startswith("PYTHONPATH="))
    assert told == "PYTHONPATH=here"


def test_libraries_that_start_python_are_protected_by_the_environment(hostile):
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 knows no PYTHONSAFEPATH")
    environ: dict[str, str] = {}
    protect(environ)
    run(hostile, [sys.executable, "-c", "import multiprocessing.spawn, numpy"], **environ)


def test_python_is_started_in_one_way_only():
    for path in [p for part in ("pipeline", "apps", "models", "sites", "core") for p in (ROOT / part).rglob("*.py")]:
        if path.name == "interpreter.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple):
                words = [ast.unparse(element).strip("'") for element in node.elts]
                assert not ({"-m", "-c"} & {*words} and {"sys.executable", "python"} & {*words}), path


def test_a_shell_reads_the_command_of_python_3_10_as_one(hostile):
    shell = shutil.which("sh")
    assert shell
    line = shlex.join([sys.executable, "-c", interpreter._WITHOUT_P, "gfm_pipeline", "--version"])
    assert run(hostile, [shell, "-c", line]).returncode == 0
