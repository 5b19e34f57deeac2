"""Whole campaigns on a real Slurm: driven from inside their job and from outside, and through its troubles."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from campaigns import WORKFLOW, Run, pretended, reference, sizes_together
from machines import FRONTIER, PERLMUTTER, Machine

from gfm_pipeline.campaign import events as ev

pytestmark = pytest.mark.slow
LONG = pytest.mark.long  # run by `make test-slurm`; the whole campaigns without it are part of `make test`, too


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same campaign on this machine alone."""
    return reference(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def start(bed, tmp_path) -> Iterator:
    """Start a campaign, and end what is left of it after the test."""
    begun: list[Run] = []

    def begin(machine: Machine, mode: str, **settings) -> Run:
        run = Run(bed, machine, tmp_path / f"{machine.site}-{mode}", mode, **settings)
        begun.append(run)
        run.start()
        return run

    yield begin
    for run in begun:
        run.clean_up()


def a_trial_runs(run: Run):
    return lambda _: bool(run.training())


def devices_are_right(run: Run, machine: Machine) -> None:
    """Every rank of every training saw the one device its site gives it."""
    trainings = [s for s in run.starts() if run.seen(s)]
    assert len(trainings) >= 4 + 2 + 2
    for started in trainings:
        seen = run.seen(started)
        assert len(seen) == len(run.nodes_of(started)) * machine.ranks
        for rank, one in enumerate(seen):
            assert int(one["RANK"] or 0) == rank
            assert one[machine.mask] == str(machine.rank_gpus[rank % machine.ranks]), one
            assert one[machine.other_mask] is None
        if started.nodes:
            assert list(started.nodes) == run.nodes_of(started)


@pytest.mark.parametrize(
    ("machine", "mode"),
    [
        pytest.param(FRONTIER, "resident", id="frontier-resident"),
        pytest.param(PERLMUTTER, "pilot", id="perlmutter-pilot"),
        pytest.param(FRONTIER, "pilot", id="frontier-pilot", marks=LONG),
        pytest.param(PERLMUTTER, "resident", id="perlmutter-resident", marks=LONG),
    ],
)
def test_a_whole_campaign(start, whole, machine, mode):
    run = start(machine, mode)
    run.to_the_end()
    pretended.assert_same(run.folder, whole)
    devices_are_right(run, machine)
    moments = sizes_together(run)
    assert set().union(*moments) == {1, 2}


MIXED = f"""{WORKFLOW.partition("search:")[0]}search:
  candidates: 8
  wave: 4
  rungs: [100, 200, 400]
  reduction: 2
  space: {{algorithm: [SchNet, EGNN, PaiNN, PNA], hidden: [8, 16]}}
converge: {{members: 1, check_every: 100, max_graphs: 800}}
"""


@LONG
def test_trials_of_one_two_and_four_nodes_beside_each_other(start):
    # Six nodes hold a wave and a half: what is left of the second one runs beside the survivors of the first, if it
    # runs longer than the workers for a new size take to come up.
    run = start(PERLMUTTER, "resident", nodes=6, search=(1, 2, 4), converge=1, workflow=MIXED, step_seconds=0.4)
    run.to_the_end()
    moments = sizes_together(run)
    assert set().union(*moments) == {1, 2, 4}
    assert max(map(len, moments)) > 1


MANY = f"""{WORKFLOW.partition("search:")[0]}search:
  candidates: 12
  wave: 8
  rungs: [100, 200]
  reduction: 2
  space: {{algorithm: [SchNet, EGNN], hidden: [8, 16], batch_size: [BATCH]}}
converge: {{members: 2, check_every: 100, max_graphs: 400}}
"""
FEW_LAUNCHES = "max_steps: 2\nmax_sub_node_nodes: 1"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same campaigns on this machine alone, by the size of a batch: a training has at most so many ranks."""
    return {n: reference(tmp_path_factory.mktemp("many"), MANY.replace("BATCH", str(n))) for n in (3, 8)}


@LONG
@pytest.mark.parametrize(
    ("machine", "nodes", "mode"),
    [(PERLMUTTER, "auto", "resident"), (FRONTIER, (1, 1), "resident"), (PERLMUTTER, "auto", "pilot")],
    ids=["part-nodes", "whole-nodes", "pilot"],
)
def test_many_trainings_share_a_launch(start, many, machine, nodes, mode):
    batch = 3 if nodes == "auto" else 8
    asked = MANY.replace("BATCH", str(batch))
    run = start(machine, mode, search=nodes, converge=1, workflow=asked, limits=FEW_LAUNCHES, step_seconds=0.05)
    run.to_the_end()
    pretended.assert_same(run.folder, many[batch])
    launches = [
        json.loads(p.read_text())["members"] for p in run.campaign.glob("stages/search-*/launches/*/group.json")
    ]
    assert max(map(len, launches)) == (4 if nodes == "auto" else 2)
    members = {Path(member["folder"]).parent.name for launch in launches for member in launch}
    searched = [s for s in run.starts() if s.task.startswith("c")]
    assert members == {s.task for s in searched}
    for started in searched:
        seen = run.seen(started)
        assert list(started.nodes) == run.nodes_of(started)
        assert [int(one["RANK"] or 0) for one in seen] == list(range(machine.ranks))
        masks = [one[machine.mask] for one in seen]
        slots = [machine.rank_gpus[i : i + machine.ranks] for i in range(0, machine.gpus, machine.ranks)]
        assert masks in [[str(gpu) for gpu in slot] for slot in slots]


@LONG
def test_a_launch_that_trainings_share_is_killed(start, many):
    """Its trainings go on from their checkpoints, in other launches."""
    asked = MANY.replace("BATCH", "3")
    run = start(
        PERLMUTTER, "resident", search="auto", converge=1, workflow=asked, limits=FEW_LAUNCHES, step_seconds=0.5
    )
    run.wait_for(lambda _: len(run.training()) >= 4)
    step = next(run.campaign.glob("stages/search-*/launches/*/step")).read_text().strip()
    run.bed.command("scancel", "--signal=KILL", step)
    run.wait_for(lambda events: any(isinstance(e, ev.TaskEnded) and e.cause is ev.Cause.TROUBLE for e in events))
    run.pace(0.01)
    run.to_the_end()
    pretended.assert_same(run.folder, many[3])


@LONG
def test_the_wall_time_ends_in_the_middle_of_the_search(start, whole):
    """Warned, the driver saves and leaves; the job after it goes on where this one stopped."""
    run = start(PERLMUTTER, "resident", hours=2 / 60, step_seconds=15)  # a trial of the first rung has ten
    run.wait_for(lambda events: any(isinstance(e, ev.DriverEnded) for e in events))
    run.pace(0.01)
    run.to_the_end()
    pretended.assert_same(run.folder, whole)
    assert len([e for e in run.events() if isinstance(e, ev.DriverStarted)]) > 1
    stopped = [e for e in run.events() if isinstance(e, ev.TaskEnded) and e.cause is ev.Cause.STOPPED]
    assert stopped
    assert {e.reason for e in stopped} == {"asked to stop; checkpoint saved"}
    assert {e.task.partition("-")[2] for e in stopped} <= {"r0", "r1"}  # trials of the search


@LONG
def test_a_block_is_cancelled_under_the_driver_and_slurmctld_stands_still(start, bed, whole):
    run = start(PERLMUTTER, "pilot", step_seconds=0.3)
    run.wait_for(a_trial_runs(run))
    (job,) = run.jobs().values()
    bed.command("scancel", job)
    run.wait_for(lambda _: len(run.jobs()) > 1)
    with bed.stopped_controller():
        time.sleep(float(os.environ.get("GFM_SLURM_SILENCE", "25")))
    run.to_the_end()
    pretended.assert_same(run.folder, whole)
    intents = sorted(e.name for e in run.events() if isinstance(e, ev.JobIntended))
    ever = bed.command("squeue", "-h", "-t", "all", "-o", "%j").split()
    assert sorted(name for name in ever if name in intents) == intents  # once each


@LONG
def test_a_node_dies_under_a_running_trial(start, bed, whole):
    run = start(PERLMUTTER, "resident", step_seconds=0.5)
    run.wait_for(lambda _: any("pm1" not in run.nodes_of(s) for s in run.training()))
    victim = next(s for s in run.training() if "pm1" not in run.nodes_of(s))  # the driver lives on the first node
    node = run.nodes_of(victim)[-1]
    bed.fail_node(node)
    try:
        run.wait_for(lambda events: any(isinstance(e, ev.NodeExcluded) and e.node == node for e in events))
        run.to_the_end()
    finally:
        bed.repair_node(node)
    pretended.assert_same(run.folder, whole)
    again = [s for s in run.starts() if s.task == victim.task and s.attempt > victim.attempt]
    assert again
    assert all(node not in run.nodes_of(s) for s in again)


@LONG
def test_a_killed_driver_holds_no_nodes_and_its_campaign_goes_on(start, bed, whole):
    run = start(PERLMUTTER, "pilot", step_seconds=0.3)
    run.wait_for(a_trial_runs(run))
    os.kill(run.drivers[0].pid, signal.SIGKILL)
    run.wait_gone(60)  # some missed heartbeats
    run.start()
    run.to_the_end()
    pretended.assert_same(run.folder, whole)


@LONG
def test_a_driver_killed_in_its_job_is_followed_by_the_next_one(start, bed, whole):
    run = start(PERLMUTTER, "resident", step_seconds=0.3)
    run.wait_for(a_trial_runs(run))
    run.wait_for(lambda _: len(run.jobs()) == 2)
    (driver,) = drivers_of(run)
    driver.kill()
    run.to_the_end()
    pretended.assert_same(run.folder, whole)


@LONG
@pytest.mark.parametrize("mode", ["resident", "pilot"])
def test_cancel_leaves_no_job(start, bed, mode):
    run = start(PERLMUTTER, mode, step_seconds=0.3)
    run.wait_for(a_trial_runs(run))
    done = subprocess.run(
        [*pretended.runs.command("cancel", str(run.campaign))],
        cwd=run.folder, env=bed.environment(), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run.wait_gone(60)
    time.sleep(2)
    assert not bed.jobs()


def drivers_of(run: Run) -> list[psutil.Process]:
    """Return the processes that drive the campaign inside batch jobs."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "gfm_pipeline" in words and "run" in words and str(run.campaign) in words:
            found.append(process)
    return found
