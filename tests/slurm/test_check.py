"""`sites check` on a real Slurm: it passes on both shapes, and finds what is planted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machines import FRONTIER, PERLMUTTER, Machine


def settings(machine: Machine, folder: Path, *more: str) -> list[str]:
    """Return the options that lay the site over the test bed: it has no GPUs, no modules, and fewer cores than it says.

    Counters are where the overlay says: a folder that looks like Cray's, or none at all.
    """
    counters = folder / "counters"
    counters.mkdir(exist_ok=True)
    (counters / "energy").write_text("123456 J 1700000000000000 us\n")
    energy = f"energy.path={counters}" if machine is FRONTIER else "energy.source=model"
    sets = ("gpu.torch_device=cpu", "launch.bind_cores=false", energy, *more)
    return ["--overlay", str(machine.overlay(folder)), *(word for text in sets for word in ("--set", f"site.{text}"))]


def start(bed, machine: Machine, folder: Path, *words: str, sets: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "gfm_pipeline", "sites", "check", machine.site, "--json"]
    return subprocess.Popen(
        [*line, *settings(machine, folder, *sets), *words],
        cwd=folder,
        env=bed.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check(bed, machine: Machine, folder: Path, *words: str, sets: tuple[str, ...] = (), code: int = 0):
    """Run the check; return its verdicts by name, after a look at the exit code."""
    with start(bed, machine, folder, *words, sets=sets) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"{out}\n{err}"
    found = json.loads(out)
    assert found["passed"] == (code == 0)
    return {verdict["check"]: verdict for verdict in found["checks"]}


@pytest.mark.parametrize("machine", [pytest.param(FRONTIER, marks=pytest.mark.long), PERLMUTTER], ids=lambda m: m.site)
def test_a_machine_that_is_as_its_site_says_passes(bed, tmp_path, machine):
    found = check(bed, machine, tmp_path)
    outcomes = {name: verdict["outcome"] for name, verdict in found.items()}
    done = ("commands", "queue", "job accepted", "start", "packages", "versions", "ranks", "devices", "one-node ranks")
    assert {name: outcomes[name] for name in (*done, "all-reduce", "ADIOS2", "clocks")} == dict.fromkeys(
        (*done, "all-reduce", "ADIOS2", "clocks"), "pass"
    )
    assert "reported only" in found["cores"]["measured"]
    assert found["ranks"]["measured"] == f"{2 * machine.gpus} ranks on 2 nodes"
    assert " ".join(map(str, machine.rank_gpus)) in found["devices"]["measured"]
    assert "GB/s" in found["all-reduce"]["measured"]
    assert "read on another node at" in found["ADIOS2"]["measured"]
    assert "login node" in found["clocks"]["measured"]
    assert outcomes["energy"] == ("pass" if machine is FRONTIER else "skipped")
    assert not list(tmp_path.glob("gfm-check-*")), "nothing is left behind when all is well"


def test_a_planted_wrong_order_of_gpus_is_found_with_the_right_one(bed, tmp_path):
    """The site says another order than the one in which Slurm binds (told to it here: nodes are only pretended)."""
    template = [word.replace("closest", "map_gpu:4,5,2,3,6,7,0,1") for word in FRONTIER.load(tmp_path).launch.template]
    sets = ("node.rank_gpus=[0, 1, 2, 3, 4, 5, 6, 7]", f"launch.template={json.dumps(template)}")
    found = check(bed, FRONTIER, tmp_path, "--nodes", "1", sets=sets, code=1)
    assert found["devices"]["outcome"] == "fail"
    assert "rank 0 of a node is given GPU 4 by the launcher, the site gives it GPU 0" in found["devices"]["measured"]
    assert "node.rank_gpus: [4, 5, 2, 3, 6, 7, 0, 1]" in found["devices"]["fix"]
    assert found["ranks"]["outcome"] == found["one-node ranks"]["outcome"] == "pass"
    assert list(tmp_path.glob("gfm-check-*/look/looks/*.json")), "what was seen stays for people"


def test_a_launch_line_that_forgets_to_bind_gpus_is_found(bed, tmp_path):
    template = [word for word in FRONTIER.load(tmp_path).launch.template if "--gpu-bind" not in word]
    sets = (f"launch.template={json.dumps(template)}",)
    found = check(bed, FRONTIER, tmp_path, "--nodes", "1", sets=sets, code=1)
    assert found["devices"]["outcome"] == "fail"
    assert "launch.template has no --gpu-bind" in found["devices"]["fix"]


def test_a_missing_module_is_named(bed, tmp_path):
    sets = ("profiles.bed.modules=[no-such/1.0]",)
    found = check(bed, FRONTIER, tmp_path, "--nodes", "1", sets=sets, code=1)
    assert found["start"]["measured"] == "module no-such/1.0 cannot be loaded"
    assert "profiles.bed.modules" in found["start"]["fix"]
    assert found["devices"]["outcome"] == "skipped"


def test_a_partition_that_does_not_exist_is_refused_before_anything_is_submitted(bed, tmp_path):
    found = check(bed, FRONTIER, tmp_path, sets=("scheduler.queues.batch.partition=nope",), code=1)
    assert found["job accepted"]["outcome"] == "fail"
    assert "partition" in found["job accepted"]["measured"]
    assert "scheduler.queues.batch.partition" in found["job accepted"]["fix"]
    assert "start" not in found
    assert not bed.jobs()


def test_a_job_that_waits_too_long_is_cancelled_with_its_reason(bed, tmp_path):
    bed.batch("sleep 60", tmp_path, nodes=4)
    found = check(bed, FRONTIER, tmp_path, "--wait", "0.05", code=1)
    assert "waited 0.05 minutes in queue batch (Resources); it was cancelled" in found["start"]["measured"]
    assert "--wait" in found["start"]["fix"]
    assert not [job for job in bed.jobs() if "gfm-check" in job and "PENDING" in job]


def test_interrupting_it_cancels_the_job(bed, tmp_path):
    bed.batch("sleep 60", tmp_path, nodes=4)
    process = start(bed, FRONTIER, tmp_path)
    until = time.monotonic() + 60
    while not any("gfm-check" in job for job in bed.jobs()) and time.monotonic() < until:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not any("gfm-check" in job for job in bed.jobs())
