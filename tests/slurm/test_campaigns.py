"""Whole campaigns on a real Slurm: driven from inside their job and from outside, and through its troubles."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
from bed_campaigns import WORKFLOW, Run, pretended, sizes_together
from machines import FRONTIER, PERLMUTTER

from gfm_pipeline.campaign import events as ev

pytestmark = pytest.mark.slow
FEW = WORKFLOW.replace("candidates: 4", "candidates: 2").replace("members: 2", "members: 1")
SUSPENDED = 20.0  # seconds; Parsl misses heartbeats after 8 on the test bed
SILENCE = 30.0  # of slurmctld, in seconds; commands give up after 10


def a_trial_runs(run: Run):
    return lambda _: bool(run.training())


def devices_are_right(run: Run) -> None:
    """Every rank of every training that finished saw the one device its site gives it, on the nodes it was given."""
    machine = run.machine
    finished = run.finished()
    trainings = [s for s in run.starts() if run.seen(s) and (s.task, s.attempt) in finished]
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


def is_as(run: Run, whole) -> None:
    """Hold a campaign against the one that ran uninterrupted on one machine."""
    pretended.assert_same(run.folder, whole)
    devices_are_right(run)


def drivers_of(run: Run) -> list[psutil.Process]:
    """Return the processes that drive the campaign inside batch jobs."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "gfm_pipeline" in words and "run" in words and str(run.campaign) in words:
            found.append(process)
    return found


@pytest.mark.long  # the tests of shared launches and of a lost node hold the same, each with more
def test_resident_on_frontier(start, whole):
    run = start(FRONTIER, "resident")
    run.to_the_end()
    is_as(run, whole)
    assert set().union(*sizes_together(run)) == {1, 2}


def test_resident_on_perlmutter_where_a_node_dies_under_a_running_trial(start, bed, whole):
    run = start(PERLMUTTER, "resident", step_seconds=0.5)
    run.wait_for(lambda _: any("pm1" not in run.nodes_of(s) for s in run.training()))
    victim = next(s for s in run.training() if "pm1" not in run.nodes_of(s))  # the driver lives on the first node
    node = run.nodes_of(victim)[-1]
    bed.fail_node(node)
    run.pace(0.01)  # only now: a trial that is over before its node is gone is no trial under which a node dies
    try:
        run.wait_for(lambda events: any(isinstance(e, ev.NodeExcluded) and e.node == node for e in events))
        run.to_the_end()
    finally:
        bed.repair_node(node)
    is_as(run, whole)
    again = [s for s in run.starts() if s.task == victim.task and s.attempt > victim.attempt]
    assert again
    assert all(node not in run.nodes_of(s) for s in again)


def test_pilot_on_frontier_whose_block_is_cancelled_and_whose_slurmctld_stands_still(start, bed, whole):
    """It stands still after the second block began and before its pools are launched, so they are launched again."""
    run = start(FRONTIER, "pilot", step_seconds=0.2, prologue="sleep 3")
    run.wait_for(a_trial_runs(run))
    (job,) = run.jobs().values()
    bed.command("scancel", job)
    run.wait_for(lambda _: len(run.jobs()) > 1)
    second = max(run.jobs().values(), key=int)
    while bed.command("squeue", "-h", "-j", second, "-o", "%t").strip() != "R":
        time.sleep(0.05)
    run.pace(0.01)
    with bed.stopped_controller():
        time.sleep(SILENCE)
    run.to_the_end()
    is_as(run, whole)
    intents = sorted(e.name for e in run.events() if isinstance(e, ev.JobIntended))
    assert len(intents) == 2  # the second block was not lost
    ever = bed.command("squeue", "-h", "-t", "all", "-o", "%j").split()
    assert sorted(name for name in ever if name in intents) == intents  # once each


def test_pilot_on_perlmutter_whose_driver_is_killed(start, whole):
    """No nodes are held after the grace time; started again, the campaign goes on, in two blocks as before."""
    run = start(PERLMUTTER, "pilot", nodes=2, blocks=2, step_seconds=0.3)
    run.wait_for(lambda _: len({node for s in run.training() for node in run.nodes_of(s)}) > 2)  # so in both blocks
    os.kill(run.drivers[0].pid, signal.SIGKILL)
    run.wait_gone(60)  # some missed heartbeats
    run.pace(0.01)
    run.start()
    run.to_the_end()
    is_as(run, whole)


def test_a_driver_killed_in_its_job_is_followed_by_the_next_one_and_cancelled(start):
    run = start(PERLMUTTER, "resident", step_seconds=1.0)
    run.wait_for(lambda _: run.training() and len(run.jobs()) == 2)
    (driver,) = drivers_of(run)
    driver.kill()
    run.wait_for(lambda events: sum(isinstance(e, ev.DriverStarted) for e in events) == 2)
    run.wait_for(a_trial_runs(run))
    run.cancel()


def test_a_pilot_is_cancelled(start):
    run = start(PERLMUTTER, "pilot", step_seconds=0.3)
    run.wait_for(a_trial_runs(run))
    run.cancel()


@pytest.mark.parametrize("mode", [pytest.param("resident", marks=pytest.mark.long), "pilot"])
def test_a_campaign_in_a_folder_of_an_odd_name(start, mode):
    """Slurm reads quotes, % and backslashes of paths in its own way, Parsl and shells in theirs."""
    run = start(
        FRONTIER, mode, within='it\'s my "drive" & $HOME; {x} 100%j [a]\\n', search=(1, 1), converge=1, workflow=FEW
    )
    run.to_the_end()
    assert len(run.finished()) == len(run.starts())  # each at once
    assert (run.campaign / "jobs" / f"{min(run.jobs())}.out").exists()


@pytest.mark.parametrize("mode", ["resident", pytest.param("pilot", marks=pytest.mark.long)])
def test_a_suspended_job_goes_on_where_it_was(start, bed, mode):
    """Longer than Parsl waits for a heartbeat. The driver stands still with its job, or sees the block stand still."""
    run = start(FRONTIER, mode, step_seconds=0.3, search=(1, 1), converge=1, workflow=FEW)
    run.wait_for(a_trial_runs(run))
    job = run.jobs()[min(run.jobs())]
    bed.command("scontrol", "suspend", job)
    time.sleep(SUSPENDED)
    bed.command("scontrol", "resume", job)
    run.pace(0.01)
    run.to_the_end()
    assert len(run.finished()) == len(run.starts())  # no attempt was lost
    kinds = {type(e) for e in run.events()}
    assert ev.LauncherRestarted not in kinds
    assert ev.Suspended in kinds


def test_an_allocation_cancelled_with_finished_results_not_yet_recorded_loses_none(start, bed):
    """The driver cannot listen while its trainings end; then their block is cancelled from outside."""
    run = start(FRONTIER, "pilot", step_seconds=0.3, search=(1, 1), converge=1, workflow=FEW)
    run.wait_for(a_trial_runs(run))
    task = run.training()[0]
    (driver,) = run.drivers
    driver.send_signal(signal.SIGSTOP)
    try:
        record = run.campaign / "stages"
        while not list(record.glob(f"search-*/tasks/{task.task}/attempt-{task.attempt}/exit.json")):
            time.sleep(0.2)
        bed.command("scancel", *run.jobs().values())
        run.wait_gone(60)
    finally:
        driver.send_signal(signal.SIGCONT)
    run.pace(0.01)
    run.to_the_end()
    assert (task.task, task.attempt) in run.finished()
    assert sum(s.task == task.task for s in run.starts()) == 1


def test_scancel_of_the_driver_is_a_person_s_word_and_no_job_goes_on(start, bed):
    run = start(PERLMUTTER, "resident", step_seconds=1.0)
    run.wait_for(lambda _: run.training() and len(run.jobs()) == 2)
    bed.command("scancel", run.jobs()[min(run.jobs())])
    run.wait_gone(60)
    assert sum(isinstance(e, ev.DriverStarted) for e in run.events()) == 1
    assert "cancelled by a person" in run.story()
    assert {e.name for e in run.events() if isinstance(e, ev.JobEnded)} == {max(run.jobs())}
