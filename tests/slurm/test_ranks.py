"""The launch lines of the shipped sites on a real Slurm: each rank sees the one device its site gives it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from machines import FRONTIER, MACHINES, Machine

from gfm_pipeline.core.contracts.attempts.records import ExitCode, read_first_failure
from gfm_pipeline.sites.batch import BatchJob, resident_script
from gfm_pipeline.sites.launch import launch_line, pool_line, rank_file
from gfm_pipeline.sites.task_shape import default_shape


def submit(bed, site, machine: Machine, folder: Path, nodes: int, body: list[str]) -> str:
    """Submit the site's own batch script around ``body``; return the job's id."""
    job = BatchJob(
        "ranks", nodes, 0.1, machine.queue, None, str(folder), str(folder / "out"), str(Path(sys.executable).parent)
    )
    (folder / "body.sh").write_text("\n".join(body) + "\n")
    (folder / "job.sh").write_text(resident_script(site, job, ["bash", str(folder / "body.sh")]))
    return bed.command("sbatch", "--parsable", str(folder / "job.sh")).strip()


def launch(site, folder: Path, nodes: list[str], ranks_per_node: int | None = None) -> str:
    """Return the shell line that runs the noting program on ``nodes`` in a folder of its own."""
    shape = default_shape(site, len(nodes), ranks_per_node)
    folder.mkdir()
    rank_file(site, shape, nodes, 20_123, wrapper_timeout_seconds=60).write(folder)
    (folder / "spec.json").write_text("{}")
    line = [
        *launch_line(site, shape, nodes),
        sys.executable,
        "-m",
        "gfm_pipeline.apps.runtime.rank",
        "note_device",
        "spec.json",
    ]
    return f"(cd {folder} && {shlex.join(line)} > out 2> err; echo $? > code)"


def seen(folder: Path) -> list[dict[str, str | None]]:
    assert (folder / "code").read_text() == "0\n", (folder / "err").read_text()
    return sorted((json.loads(p.read_text()) for p in (folder / "seen").iterdir()), key=lambda s: int(s["RANK"]))


def expect(machine: Machine, found: list[dict[str, str | None]], nodes: list[str], ranks_per_node: int) -> None:
    assert [s["RANK"] for s in found] == [str(r) for r in range(len(nodes) * ranks_per_node)]
    for rank, one in enumerate(found):
        local = rank % ranks_per_node
        assert one["SLURMD_NODENAME"] == nodes[rank // ranks_per_node]
        assert one["LOCAL_RANK"] == str(local)
        assert one["WORLD_SIZE"] == str(len(found))
        assert one["MASTER_ADDR"] == nodes[0]
        assert one[machine.mask] == str(machine.rank_gpus[local]), one
        assert one[machine.other_mask] is None
        assert one["ZE_AFFINITY_MASK"] is None


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.site)
def test_every_rank_sees_the_device_its_site_says(bed, tmp_path, machine):
    site = machine.load(tmp_path)
    nodes = [f"{machine.prefix}{i}" for i in (1, 2, 3)]
    lines = [
        launch(site, tmp_path / "one", nodes[2:]) + " &",
        launch(site, tmp_path / "two", nodes[:2]) + " &",
        "wait",
    ]
    job = submit(bed, site, machine, tmp_path, 3, lines)
    assert bed.wait_end(job, 120) == "COMPLETED", (tmp_path / "out").read_text()
    expect(machine, seen(tmp_path / "one"), nodes[2:], machine.gpus)
    expect(machine, seen(tmp_path / "two"), nodes[:2], machine.gpus)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.site)
def test_steps_run_beside_the_pools_of_workers(bed, tmp_path, machine):
    site = machine.load(tmp_path)
    nodes = [f"{machine.prefix}{i}" for i in (1, 2)]
    pool = shlex.join([*pool_line(site, nodes), "sleep", "60"])
    lines = [
        f"{pool} & pool=$!; sleep 1",
        launch(site, tmp_path / "step", nodes),
        "kill $pool; wait; exit 0",
    ]
    job = submit(bed, site, machine, tmp_path, 2, lines)
    assert bed.wait_end(job, 120) == "COMPLETED", (tmp_path / "out").read_text()
    expect(machine, seen(tmp_path / "step"), nodes, machine.gpus)


def test_a_binding_that_is_not_the_site_s_is_refused_by_the_rank(bed, tmp_path):
    """Without ``--gpu-bind=closest`` Slurm deals GPUs by rank, as it does on many machines and not on Frontier."""
    machine = FRONTIER
    site = machine.load(tmp_path)
    launching = site.launch.model_copy(update={"template": [w for w in site.launch.template if "--gpu-bind" not in w]})
    site = site.model_copy(update={"launch": launching})
    job = submit(bed, site, machine, tmp_path, 1, [launch(site, tmp_path / "wrong", ["fr1"], 2)])
    bed.wait_end(job, 120)
    assert (tmp_path / "wrong" / "code").read_text() != "0\n"
    assert not (tmp_path / "wrong" / "seen").exists()
    assert "sees GPU" in (tmp_path / "wrong" / "error.json").read_text()
    verdict = read_first_failure(tmp_path / "wrong")
    assert verdict == ExitCode.PERMANENT


STOPPED = """\
import sys, threading, time
from pathlib import Path
from gfm_pipeline.apps.runtime.wrapper import run
from gfm_pipeline.apps.runtime.launch import Launch

folder, ranks, line = Path(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:])

def ask():
    while len(list(folder.glob("ready.*"))) < ranks:
        time.sleep(0.1)
    (folder / "stop").touch()

threading.Thread(target=ask, daemon=True).start()
run(Launch("leave_when_asked", str(folder), 100, {}, line=line, shim="gfm_pipeline.apps.runtime.rank",
           cancel=("scancel", "{step}")))
"""


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.site)
def test_a_task_that_is_asked_to_leave_has_time_to_save(bed, tmp_path, machine):
    """Srun ends its ranks at once when it gets SIGTERM itself."""
    site = machine.load(tmp_path)
    nodes = [f"{machine.prefix}{i}" for i in (1, 2)]
    shape = default_shape(site, 2)
    folder = tmp_path / "task"
    folder.mkdir()
    rank_file(site, shape, nodes, 20_124, wrapper_timeout_seconds=60).write(folder)
    (folder / "spec.json").write_text("{}")
    (tmp_path / "stopped.py").write_text(STOPPED)
    line = [
        sys.executable,
        str(tmp_path / "stopped.py"),
        str(folder),
        str(shape.ranks),
        *launch_line(site, shape, nodes),
    ]
    path = f"export PYTHONPATH={Path(__file__).parent}"
    job = submit(bed, site, machine, tmp_path, 2, [path, shlex.join(line)])
    assert bed.wait_end(job, 120) == "COMPLETED", (tmp_path / "out").read_text()
    record = json.loads((folder / "exit.json").read_text())
    assert record["code"] == ExitCode.PREEMPTED, record
    assert record["stopped"]
    assert len(list(folder.glob("saved.*"))) == shape.ranks
