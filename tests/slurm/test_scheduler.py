"""The client of Slurm against a real one, also while slurmctld does not answer."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import testbed

from gfm_pipeline.batch_systems.base import JobInfo, JobState
from gfm_pipeline.batch_systems.commands import SchedulerTrouble, SubmissionRefused
from gfm_pipeline.batch_systems.slurm import Slurm


@pytest.fixture
def slurm(bed: testbed.TestBed) -> Slurm:
    return Slurm(bed.environment(), 20.0)


def script(folder: Path, body: str = "sleep 120", *directives: str) -> Path:
    path = folder / "job.sh"
    lines = ["#!/bin/bash", "#SBATCH --partition=batch", f"#SBATCH --output={folder}/out.%j", "#SBATCH --time=5"]
    path.write_text("\n".join([*lines, *(f"#SBATCH {d}" for d in directives), body, ""]))
    return path


def wait_for(slurm: Slurm, asked: str, *states: JobState, seconds: float = 60.0) -> JobInfo:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        told = slurm.jobs([asked])[asked]
        if told.state in states:
            return told
        time.sleep(0.2)
    raise AssertionError(f"{asked} is {told}")


def test_a_job_from_submission_to_its_end(slurm, bed, tmp_path):
    path = script(tmp_path, "sleep 10", "--nodes=2")
    job = slurm.submit(path, "whole-life")
    assert slurm.submit(path, "whole-life") == job
    told = wait_for(slurm, "whole-life", JobState.RUNNING)
    assert told.id == job
    assert told.nodes == ("fr1", "fr2")
    assert told.seconds_left is not None
    assert 200 < told.seconds_left <= 300
    ended = wait_for(slurm, job, JobState.COMPLETED)
    assert ended.name == "whole-life"
    assert ended.seconds_left is None
    assert slurm.submit(path, "whole-life") == job  # its name is used up


def test_how_jobs_end(slurm, bed, tmp_path):
    failed = slurm.submit(script(tmp_path, "exit 3"), "fails")
    cancelled = slurm.submit(script(tmp_path), "is-cancelled")
    named = slurm.submit(script(tmp_path), "is-cancelled-by-name")
    wait_for(slurm, cancelled, JobState.RUNNING)
    wait_for(slurm, named, JobState.RUNNING)
    slurm.cancel([cancelled, "999999"])
    slurm.cancel_by_name("is-cancelled-by-name")
    slurm.cancel_by_name("nobody-s")
    wait_for(slurm, failed, JobState.FAILED)
    wait_for(slurm, cancelled, JobState.CANCELLED)
    wait_for(slurm, named, JobState.CANCELLED)
    assert slurm.jobs(["999999", "nobody-s"])["nobody-s"].state is JobState.UNKNOWN


@pytest.mark.parametrize(
    ("directive", "words"),
    [
        ("--nodes=99", "Node count"),
        ("--partition=nix", "nix"),
        ("--time=20:00:00", "time limit"),
        ("--constraint=gold", "feature"),
    ],
)
def test_what_slurm_will_never_take(slurm, bed, tmp_path, directive, words):
    path = script(tmp_path, "true", directive)
    with pytest.raises(SubmissionRefused, match=words):
        slurm.submit(path, "refused")
    assert slurm.test(path) is not None
    assert bed.jobs() == []


def test_a_job_that_would_be_taken(slurm, bed, tmp_path):
    assert slurm.test(script(tmp_path, "true", "--nodes=2")) is None
    assert bed.jobs() == []


WHERE = """\
import os, json
from gfm_pipeline.batch_systems.slurm import Slurm
slurm = Slurm(os.environ, 20.0)
print(json.dumps([slurm.my_nodes(), slurm.seconds_left()]))
"""


def test_a_process_in_a_job_finds_its_nodes_and_its_time(slurm, bed, tmp_path):
    (tmp_path / "where.py").write_text(WHERE)
    path = script(tmp_path, f"exec {sys.executable} {tmp_path}/where.py", "--nodes=3", "--nodelist=fr[2-4]")
    job = slurm.submit(path, "where")
    wait_for(slurm, job, JobState.COMPLETED)
    text = (tmp_path / f"out.{job}").read_text()
    nodes, left = json.loads(text)
    assert nodes == ["fr2", "fr3", "fr4"]
    assert 240 < left <= 300
    assert slurm.my_nodes() == ()
    assert slurm.seconds_left() is None


@pytest.mark.slow
def test_nodes_that_are_lost_are_told(slurm, bed):
    assert slurm.bad_nodes(bed.nodes) == {}
    bed.command("scontrol", "update", "nodename=pm1", "state=drain", "reason=gpu 2 | fell off")
    bed.kill_slurmd("fr4")
    try:
        give_up = time.monotonic() + 60
        while "fr4" not in slurm.bad_nodes(bed.nodes) and time.monotonic() < give_up:
            time.sleep(0.5)
        bad = slurm.bad_nodes(bed.nodes)
        assert bad.keys() == {"fr4", "pm1"}
        assert "gpu 2 | fell off" in bad["pm1"]
        assert slurm.bad_nodes(["fr1"]) == {}
    finally:
        bed.command("scontrol", "update", "nodename=pm1", "state=resume")
        bed.repair_node("fr4")


@pytest.mark.slow
def test_one_job_comes_of_an_intent_though_slurmctld_stands_still(bed, tmp_path):
    """The submission reaches slurmctld, its answer never comes; sbatch is killed, and asked again and again."""
    slurm = Slurm(bed.environment(), 2.0)
    path, found, troubles = script(tmp_path), [], []

    def insist(name: str) -> None:
        def attempt() -> bool:
            try:
                found.append((name, slurm.submit(path, name)))
            except SchedulerTrouble as trouble:
                troubles.append(str(trouble))
                return False
            return True

        while not attempt():
            time.sleep(1)

    names = [f"intent-{i}" for i in range(3)]
    # The queue is read before sbatch is called: sbatch must be the one that meets the stopped slurmctld.
    original = slurm._commands.run

    def late(*words: str):
        if words[0] == "sbatch":
            stop.set()
            stopped.wait()
        return original(*words)

    stop, stopped = threading.Event(), threading.Event()
    object.__setattr__(slurm._commands, "run", late)
    threads = [threading.Thread(target=insist, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    assert stop.wait(30)
    with bed.stopped_controller():
        stopped.set()
        time.sleep(9)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert troubles
    time.sleep(2)
    told = slurm.jobs(names)
    queued = [line.split() for line in bed.jobs()]
    assert sorted(name for _, name, state in queued if state in ("RUNNING", "PENDING")) == names
    assert {name: told[name].id for name in names} == dict(found)


@pytest.mark.slow
def test_one_job_comes_of_an_intent_though_sbatch_is_too_slow(bed, tmp_path):
    """An sbatch that submits, and then says nothing for longer than anyone waits."""
    (tmp_path / "bin").mkdir()
    slow = tmp_path / "bin" / "sbatch"
    slow.write_text('#!/bin/bash\nPATH=${PATH#*:}; sbatch "$@"; echo >> ' + f"{tmp_path}/called; sleep 60\n")
    slow.chmod(0o755)
    environment = bed.environment(PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    slurm = Slurm(environment, 5.0)
    job = slurm.submit(script(tmp_path), "slow-one")
    assert slurm.submit(script(tmp_path), "slow-one") == job
    assert (tmp_path / "called").read_text() == "\n"
    assert [line.split()[:2] for line in bed.jobs()] == [[job, "slow-one"]]


ENDING = """\
import os
from gfm_pipeline.batch_systems.slurm import Slurm
slurm = Slurm(os.environ, 20.0)
print(slurm.ending(), *slurm.my_job()[1:], slurm.cluster(), flush=True)
"""


@pytest.mark.parametrize("how", ["scancel", "preemption"])
def test_a_job_that_is_being_ended_can_tell_a_person_s_word_from_preemption(slurm, bed, tmp_path, how):
    (tmp_path / "ending.py").write_text(ENDING)
    ask = f"{sys.executable} {tmp_path}/ending.py"
    body = f"trap '{ask}; exit 0' TERM\n{ask}\nwhile true; do sleep 0.2; done"
    job = slurm.submit(script(tmp_path, body, "--nodes=4"), f"ends-by-{how}")
    told = tmp_path / f"out.{job}"
    give_up = time.monotonic() + 60
    while not (told.exists() and "None" in told.read_text()):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    if how == "scancel":
        slurm.cancel([job])
        expected = JobState.CANCELLED
    else:
        urgent = (
            script(tmp_path, "true", "--nodelist=fr[1-4]").read_text().replace("partition=batch", "partition=urgent")
        )
        (tmp_path / "urgent.sh").write_text(urgent)
        slurm.submit(tmp_path / "urgent.sh", "urgent")
        expected = JobState.PREEMPTED
    assert wait_for(slurm, job, expected).state is expected
    lines = told.read_text().splitlines()
    assert f"None ends-by-{how} 0 bed" in lines
    assert f"{expected} ends-by-{how} 0 bed" in lines


def test_a_job_that_is_begun_again_keeps_its_number_and_counts(slurm, bed, tmp_path):
    (tmp_path / "ending.py").write_text(ENDING)
    body = f"{sys.executable} {tmp_path}/ending.py >>{tmp_path}/told\nsleep 120"
    job = slurm.submit(script(tmp_path, body, "--requeue"), "again")
    give_up = time.monotonic() + 60
    while not (tmp_path / "told").exists() or not (tmp_path / "told").read_text():
        assert time.monotonic() < give_up
        time.sleep(0.1)
    bed.command("scontrol", "requeue", job)
    wait_for(slurm, job, JobState.PENDING)
    # Slurm puts the start of the second run two minutes off: a node refuses credentials made before it revoked those
    # of the first run. A few seconds are enough here.
    bed.wait_idle(60, ["fr1"])
    time.sleep(5)
    bed.command("scontrol", "update", f"jobid={job}", "starttime=now")
    give_up = time.monotonic() + 240
    while len((tmp_path / "told").read_text().splitlines()) < 2:
        assert time.monotonic() < give_up, bed.command("scontrol", "show", "job", job, check=False)
        time.sleep(0.2)
    assert [line.split()[2] for line in (tmp_path / "told").read_text().splitlines()] == ["0", "1"]
