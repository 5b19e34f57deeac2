"""What the launch lines rely on: facts about Slurm itself, held by a real one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import testbed
from bed_leftovers import HOSTS

LOOK = 'echo "$SLURMD_NODENAME $SLURM_LOCALID ${ROCR_VISIBLE_DEVICES-unset} ${CUDA_VISIBLE_DEVICES-unset}"'
POOL = "srun --overlap -N2 -n2 --ntasks-per-node=1 -c56 --gpus-per-node=8 sleep 60 & pool=$!; sleep 1\n"


def run(bed: testbed.TestBed, folder: Path, script: str, **where) -> list[list[str]]:
    """Run a batch script to its end; return the words of each line it printed."""
    job = bed.batch(script, folder, **where)
    state = bed.wait_end(job)
    text = (folder / f"out.{job}").read_text()
    assert state == "COMPLETED", text
    return [line.split() for line in text.splitlines() if not line.startswith("srun: cluster configuration lacks")]


def wait_for(path: Path, word: str, seconds: float = 90.0) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if path.exists() and word in path.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{word!r} never came into {path}: {path.read_text() if path.exists() else 'no file'}")


def test_frontier_shape_gives_each_task_one_gpu_by_the_rocm_mask(bed, tmp_path):
    line = f"srun -N2 -n16 --ntasks-per-node=8 -c7 --gpus-per-task=1 bash -c '{LOOK}'"
    seen = run(bed, tmp_path, line, nodes=2, options=("-S", "8", "--threads-per-core=1", "-C", "nvme"))
    assert sorted(seen) == [[f"fr{n}", str(g), str(g), "unset"] for n in (1, 2) for g in range(8)]


def test_frontier_shape_keeps_eight_cores_for_the_system(bed, tmp_path):
    (line,) = run(bed, tmp_path, "echo $SLURM_CPUS_ON_NODE", options=("-S", "8", "--threads-per-core=1"))
    assert line == ["56"]


def test_perlmutter_shape_shows_every_gpu_to_each_task(bed, tmp_path):
    line = f"srun -N2 -n8 --ntasks-per-node=4 -c32 --gpus-per-node=4 --gpu-bind=none bash -c '{LOOK}'"
    seen = run(bed, tmp_path, line, nodes=2, partition="gpu", options=("-C", "gpu", "--gpus-per-node=4"))
    assert sorted(seen) == [[f"pm{n}", str(r), "unset", "unset"] for n in (1, 2) for r in range(4)]


def test_perlmutter_shape_masks_by_the_cuda_variable(bed, tmp_path):
    line = f"srun -N1 -n4 -c32 --gpus-per-task=1 bash -c '{LOOK}'"
    seen = run(bed, tmp_path, line, partition="gpu", options=("--gpus-per-node=4",))
    assert sorted(seen) == [["pm1", str(r), "unset", str(r)] for r in range(4)]


def test_a_step_goes_to_the_nodes_it_names(bed, tmp_path):
    lines = run(
        bed, tmp_path,
        "for n in fr3 fr1,fr2; do srun --nodelist=$n -N$(echo $n | tr , '\\n' | wc -l) --ntasks-per-node=1 -c7"
        " bash -c 'echo $SLURM_STEP_ID $SLURMD_NODENAME; sleep 1' & done; wait",
        nodes=3,
    )  # fmt: skip
    steps: dict[str, set[str]] = {}
    for step, node in lines:
        steps.setdefault(step, set()).add(node)
    assert sorted(map(sorted, steps.values())) == [["fr1", "fr2"], ["fr3"]]


@pytest.mark.parametrize("inner", ["", "--overlap", "--exact"])
def test_steps_start_at_once_beside_a_pool_that_overlaps(bed, tmp_path, inner):
    script = (
        f"{POOL}timeout 20 srun {inner} -N2 -n16 --ntasks-per-node=8 -c7 --gpus-per-task=1 bash -c '{LOOK}'\n"
        "echo code $?; kill $pool; wait $pool 2>/dev/null; exit 0"
    )
    seen = run(bed, tmp_path, script, nodes=2, options=("-S", "8", "--threads-per-core=1"))
    assert ["code", "0"] in seen
    ranks = [line for line in seen if line[0] in ("fr1", "fr2")]
    assert sorted(ranks) == [[f"fr{n}", str(g), str(g), "unset"] for n in (1, 2) for g in range(8)]


def test_steps_wait_for_a_pool_that_does_not_overlap(bed, tmp_path):
    script = (
        f"{POOL.replace('--overlap ', '')}timeout 4 srun -N2 -n16 --ntasks-per-node=8 -c7 true; echo code $?\n"
        "kill $pool; wait $pool 2>/dev/null; exit 0"
    )
    seen = run(bed, tmp_path, script, nodes=2, options=("-S", "8", "--threads-per-core=1"))
    assert ["code", "124"] in seen


NOTES_SIGNALS = """\
import signal, sys, time
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda n, _: print(sys.argv[1], signal.Signals(n).name, flush=True))
if sys.argv[1] == "driver":
    import subprocess
    step = subprocess.Popen(["srun", "-N1", "-n1", "-c7", sys.executable, "notes.py", "step"])
print(sys.argv[1], "ready", flush=True)
time.sleep(300)
"""


@pytest.mark.slow
def test_the_signal_before_the_time_limit_reaches_a_driver_that_was_exec_ed(bed, tmp_path):
    (tmp_path / "notes.py").write_text(NOTES_SIGNALS)
    # Slurm sends the signal up to a minute before it was asked to: with this limit, at the next look.
    job = bed.batch(
        f"exec {sys.executable} notes.py driver", tmp_path, options=("--signal=B:USR1@30", "--time=1", "--no-requeue")
    )
    out = tmp_path / f"out.{job}"
    wait_for(out, "step ready")
    wait_for(out, "driver SIGUSR1", 45)
    assert "step SIGUSR1" not in out.read_text()


def test_a_killed_srun_leaves_its_step_and_scancel_ends_it(bed, tmp_path):
    # Both processes of srun are killed at once: the second one would end the step when it misses the first.
    script = """\
setsid srun -N1 -n2 -c7 bash -c 'echo > begun.$SLURM_PROCID; sleep 300' & srun=$!
until [ -e begun.0 ] && [ -e begun.1 ]; do sleep 0.2; done
pkill -STOP -s $srun; sleep 0.5; pkill -KILL -s $srun; sleep 3
squeue -h -s -j $SLURM_JOB_ID -o %i
scancel $SLURM_JOB_ID.0
for i in $(seq 30); do sleep 0.5; squeue -h -s -j $SLURM_JOB_ID -o %i | grep -qx $SLURM_JOB_ID.0 || break; done
echo after; squeue -h -s -j $SLURM_JOB_ID -o %i
exit 0
"""
    job = bed.batch(script, tmp_path)
    assert bed.wait_end(job) == "COMPLETED"
    lines = (tmp_path / f"out.{job}").read_text().splitlines()
    after = lines.index("after")
    assert f"{job}.0" in lines[:after]
    assert f"{job}.0" not in lines[after:]


@pytest.mark.slow
def test_a_job_that_asked_for_it_outlives_a_node(bed, tmp_path):
    # The exit code of srun says nothing here: with one task it is 0.
    script = """\
srun --nodelist=fr2 -N1 -n1 -c7 bash -c 'echo begun > begun; sleep 300'
srun --nodelist=fr1 -N1 -n1 -c7 echo alive
exit 0
"""
    job = bed.batch(script, tmp_path, nodes=2, options=("--no-kill", "--nodelist=fr[1-2]"))
    wait_for(tmp_path / "begun", "begun")  # srun says another thing of a node that fails while it launches there
    bed.fail_node("fr2")
    try:
        assert bed.wait_end(job, 90) == "COMPLETED"
        text = (tmp_path / f"out.{job}").read_text()
        assert "Node failure on fr2" in text
        assert "alive" in text
    finally:
        bed.repair_node("fr2")


def test_nothing_is_left_of_a_test_bed_and_two_do_not_meet(running_bed, tmp_path):
    with testbed.TestBed(1, 1) as other:
        folder = other.folder
        assert other.command("srun", "-N1", "hostname").strip()
        assert other.states().keys() == {"fr1", "pm1"}
        assert str(folder) in HOSTS.read_text()
        job = other.batch("sleep 300", tmp_path)
        give_up = time.monotonic() + 20
        while f"{job} script.sh RUNNING" not in other.jobs() and time.monotonic() < give_up:
            time.sleep(0.1)
    assert not folder.exists()
    assert str(folder) not in HOSTS.read_text()
    left = [p.info for p in psutil.process_iter(["cmdline", "cwd"]) if str(folder) in str(p.info)]
    assert not left
    assert set(running_bed.states()) == set(running_bed.nodes)


def test_a_test_bed_dies_with_the_process_that_holds_it(slurm_here):
    holder = subprocess.Popen(
        [sys.executable, testbed.__file__, "1", "0"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert holder.stdout is not None
    conf = holder.stdout.readline().strip().partition("=")[2]
    folder = Path(conf).parent
    assert folder.exists()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
        if not left:
            break
        time.sleep(0.1)
    assert not left
    with testbed.TestBed(0, 1):  # removes what the dead one could not
        assert str(folder) not in HOSTS.read_text()
        assert not folder.exists()
