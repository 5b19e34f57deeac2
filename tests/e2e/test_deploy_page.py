"""The page on using an ensemble, run as it stands: its commands, then its Python."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
CAMPAIGN = ROOT / "tests" / "reliability" / "fixtures" / "campaign-v1" / "campaign"
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
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    told = [run(tmp_path, COMMAND, *shlex.split(block)[1:]) for block in blocks]
    assert "SHA-256" in told[0]
    assert "3 structures" in told[1]
    assert "primitive" in told[2]
    assert len(read(tmp_path / "predicted.extxyz", ":")) == 3
    (tmp_path / "page.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    assert len(run(tmp_path, sys.executable, "page.py").splitlines()) == 3


def test_answers_are_json_and_faults_are_sentences(tmp_path: Path) -> None:
    write(tmp_path / "new.extxyz", [bulk("Cu")])
    facts = json.loads(run(tmp_path, COMMAND, "export", str(CAMPAIGN), "--output", "m.gfm", "--json"))
    assert facts["schema_version"] == 1
    assert facts["targets"] == ["energy", "forces"]
    said = run(tmp_path, COMMAND, "evaluate", "m.gfm", "new.extxyz", code=1)
    assert "No structure has a label" in said
    said = run(tmp_path, COMMAND, "export", str(CAMPAIGN), "--output", "m.gfm", code=2)
    assert "m.gfm exists" in said
    said = run(tmp_path, COMMAND, "predict", "m.gfm", "missing.xyz", "--output", "o.csv", code=1)
    assert "missing.xyz of source files does not exist" in said
