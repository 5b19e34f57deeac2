"""Bad data and a full disk, as a user meets them."""

import json
import os
import subprocess

import numpy as np
import pytest
import runs
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from gfm_pipeline.campaign import events as ev

pytestmark = pytest.mark.slow

OWN = runs.SMALL.replace(
    runs.SMALL[runs.SMALL.index("    alloys:") : runs.SMALL.index("  validation:")],
    "    mine:\n      reader: ase\n      files: mine.extxyz\n      group_key: run\n",
)


def structures(bad: int) -> list[Atoms]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(40):
        atoms = Atoms("H2O", positions=rng.normal(scale=2.0, size=(3, 3)), info={"run": f"r{i // 2}"})
        energy = float("nan") if i < bad else float(i)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=rng.normal(size=(3, 3)))
        made.append(atoms)
    return made


def run(folder, *arguments):
    return subprocess.run(
        runs.command("run", "w.yaml", *arguments), cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def test_too_many_bad_records_fail_ingest_and_are_named(tmp_path):
    (tmp_path / "w.yaml").write_text(OWN)
    write(tmp_path / "mine.extxyz", structures(bad=10), format="extxyz")
    done = run(tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Ingest failed: assemble-mine")
    assert "10 of 40" in done.stderr
    told = done.stderr.splitlines()
    head = next(k for k, line in enumerate(told) if line.split() == ["reason", "records", "share", "first"])
    assert told[head + 1].rstrip().endswith(f"10   25 %  {tmp_path / 'mine.extxyz'}, record 0")
    assert "Traceback" not in done.stderr
    stages = tmp_path / "campaigns" / "small" / "stages"
    assert not list(stages.glob("*/datasets/mine"))
    rows = [json.loads(line) for p in stages.glob("*/shards/*/quarantine.jsonl") for line in p.read_text().splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(10))
    assert all(row["reason"] and row["source"] == "mine" for row in rows)
    campaign = str(tmp_path / "campaigns" / "small")
    wide = {**os.environ, "COLUMNS": "200"}
    status = subprocess.run(runs.command("status", campaign), env=wide, capture_output=True, text=True, check=True)
    subprocess.run(runs.command("report", campaign), env=wide, capture_output=True, text=True, check=True)
    pages = [(tmp_path / "campaigns" / "small" / name).read_text() for name in ("report.md", "report.html")]
    for text in (status.stdout, *pages):
        assert told[head].strip() in text
        assert told[head + 1].strip() in text
    (counted,) = [line.split() for line in status.stdout.splitlines() if line.startswith("mine ")]
    assert counted[:8] == ["mine", "✕", "failed", "1/1", "40", "10", "25.0", "%"]


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 600 kB, or skip where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk_is_a_pause_and_the_campaign_goes_on_after_space_is_made(small_disk, tmp_path):
    (tmp_path / "w.yaml").write_text(runs.SMALL)
    folder = small_disk / "campaign"
    done = run(tmp_path, "--campaign", str(folder))
    assert done.returncode == 3, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert "No space left on device" in last
    assert str(small_disk) in last
    assert "gfm-pipeline resume" in last
    assert "Traceback" not in done.stderr
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    runs.finish(tmp_path, "resume", str(folder))
    assert sum(isinstance(e, ev.StageDone) for e in runs.events(folder / "journal.jsonl")) == 4
