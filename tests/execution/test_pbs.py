"""PBS through commands that stand in for it."""

from __future__ import annotations

import time
from pathlib import Path

import fake_batch
import pytest

from gfm_pipeline.batch_systems.base import JobState
from gfm_pipeline.batch_systems.commands import SchedulerTrouble, SubmissionRefused
from gfm_pipeline.batch_systems.pbs import Pbs

COMMANDS = ("qsub", "qselect", "qstat", "qdel", "pbsnodes")


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    return tmp_path / "fake"


@pytest.fixture
def pbs(fake: Path) -> Pbs:
    environment = fake_batch.install(fake, *COMMANDS)
    (fake / "job.sh").write_text("#!/bin/bash\n")
    return Pbs(environment | {"PBS_JOBID": "77.pbs01", "PBS_NODEFILE": str(fake / "nodefile")}, 1.0)


def insist(pbs: Pbs, fake: Path) -> str:
    return fake_batch.insist(lambda: pbs.submit(fake / "job.sh", "block-1"))


@pytest.mark.parametrize(
    "behaviours",
    [
        [],
        ["late"],
        ["hang"],
        ["lost cannot connect to server"],
        ["fail would exceed queue's per-user limit"],
        ["say ?"],
    ],
)
def test_whatever_qsub_does_one_job_comes_of_it(pbs, fake, behaviours):
    fake_batch.plan(fake, "qsub", *behaviours)
    job = insist(pbs, fake)
    assert list(fake_batch.submitted(fake)) == [job]
    assert pbs.submit(fake / "job.sh", "block-1") == job
    assert '"leaked": []' in (fake / "jobs" / job).read_text()


def test_what_will_never_be_taken_is_refused_at_once(pbs, fake):
    fake_batch.plan(fake, "qsub", "fail Unknown queue MSG=cannot locate queue nix")
    with pytest.raises(SubmissionRefused, match="Unknown queue"):
        pbs.submit(fake / "job.sh", "block-1")


def test_a_running_job_tells_its_nodes_and_the_time_it_has_left(pbs, fake):
    job = pbs.submit(fake / "job.sh", "block-1")
    started = time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(time.time() - 600))
    facts = {
        "exec_host": "x1n0/0*64+x1n1/0*64",
        "Resource_List": {"walltime": "01:00:00"},
        "resources_used": {"walltime": "00:01:00"},
        "stime": started,
        "comment": "Job run at noon",
    }
    fake_batch.set_state(fake, job, "RUNNING", facts=facts)
    told = pbs.jobs([job, "block-1"])
    assert told[job] == told["block-1"]
    assert told[job].nodes == ("x1n0", "x1n1")
    assert told[job].state is JobState.RUNNING
    assert told[job].seconds_left == pytest.approx(3000, abs=5)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"Exit_status": 0}, JobState.COMPLETED),
        ({"Exit_status": 1}, JobState.FAILED),
        ({"Exit_status": -29}, JobState.TIMEOUT),
        ({"Exit_status": 271}, JobState.CANCELLED),
        ({"substate": 91}, JobState.CANCELLED),
    ],
)
def test_how_a_job_ended(pbs, fake, facts, state):
    job = pbs.submit(fake / "job.sh", "block-1")
    fake_batch.set_state(fake, job, "COMPLETED", facts=facts)
    assert pbs.jobs([job])[job].state is state


def test_a_job_nobody_knows_is_unknown(pbs, fake):
    assert pbs.jobs(["5.pbs01"])["5.pbs01"].state is JobState.UNKNOWN
    fake_batch.plan(fake, "qstat", "fail Unknown Job Id 5.pbs01")
    assert pbs.jobs(["5.pbs01"])["5.pbs01"].state is JobState.UNKNOWN


def test_variables_that_pbs_does_not_escape_do_no_harm(pbs, fake):
    job = pbs.submit(fake / "job.sh", "block-1")
    broken = f'{{"Jobs":{{"{job}":{{"Job_Name":"block-1","job_state":"Q","Variable_List":{{"A":"say "hi"" }} }}}}}}'
    fake_batch.plan(fake, "qstat", f"say {broken}")
    with pytest.raises(SchedulerTrouble):
        pbs.jobs([job])  # on one line nothing tells where the list ends
    assert pbs.jobs([job])[job].state is JobState.PENDING


def test_cancel_by_name(pbs, fake):
    job = pbs.submit(fake / "job.sh", "block-1")
    pbs.cancel_by_name("block-1")
    assert fake_batch.submitted(fake) == {job: "CANCELLED"}


def test_nodes_of_this_job_come_once_each(pbs, fake):
    (fake / "nodefile").write_text("a\na\nb\na\n")
    assert pbs.my_nodes() == ("a", "b")
    assert Pbs({"PATH": "/bin"}).my_nodes() == ()


def test_nodes_that_are_no_good(pbs, fake):
    (fake / "nodes").write_text(
        '{"nodes": {"a": {"state": "free"}, "b": {"state": "down,offline", "comment": "gpu"},'
        ' "c": {"state": "job-exclusive"}}}'
    )
    assert pbs.bad_nodes(["a", "b", "c"]) == {"b": "down,offline: gpu"}


def test_jobs_of_other_tools_are_not_even_looked_at(pbs, fake):
    job = pbs.submit(fake / "job.sh", "block-1")
    (fake / "jobs" / "900.pbs01").write_text('{"name": "odd\\nname", "state": "RUNNING", "nodes": ""}')
    assert pbs.jobs(["block-1"])["block-1"].id == job
    assert not any("900.pbs01" in line for line in fake_batch.calls(fake))


def test_the_server_and_which_job_this_is(fake):
    environment = fake_batch.install(fake, "qsub", "qstat", "qselect")
    (fake / "job.sh").write_text("#!/bin/bash\n")
    job = Pbs(environment).submit(fake / "job.sh", "block-1")
    inside = environment | {"PBS_JOBID": job, "PBS_JOBNAME": "block-1"}
    fake_batch.set_state(fake, job, "RUNNING", facts={"run_count": 2})
    assert Pbs(inside).my_job() == (job, "block-1", 1)
    assert Pbs(inside).cluster() == "pbs01"
    fake_batch.plan(fake, "qstat", "fail cannot connect to server")
    assert Pbs(inside).my_job()[2] < 0
    fake_batch.plan(fake, "qstat", 'say {"pbs_server": "pbs01.example.org", "Server": {}}')
    assert Pbs(environment).cluster() == "pbs01"
