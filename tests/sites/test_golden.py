"""Every generated script and launch line is the one that was reviewed."""

from __future__ import annotations

import subprocess

import pytest
from golden import FOLDER, NODES, render

from gfm_pipeline.sites.registry import shipped


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("name", shipped())
def test_scripts_and_lines_are_the_reviewed_ones(name, nodes):
    for file, text in render(name, nodes).items():
        golden = (FOLDER / name / file).read_text(encoding="utf-8")
        assert text == golden, f"{name}/{file} changed; `make golden` writes it anew, and the difference is reviewed"


def test_no_golden_file_is_left_over():
    expected = {f"{name}/{file}" for name in shipped() for nodes in NODES for file in render(name, nodes)}
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.*")} == expected


def test_golden_scripts_are_valid_shell():
    for script in FOLDER.rglob("*.sh"):
        if script.read_text(encoding="utf-8").startswith("#!"):
            done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "nodes"), [("frontier", 8192), ("perlmutter", 128), ("aurora", 8192), ("slurm", 4)])
def test_shipped_machines_take_jobs_of_these_sizes(name, nodes):
    assert all("Ask for" not in text for text in render(name, nodes).values())
