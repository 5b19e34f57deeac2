"""Slurm's commands hang, fail and talk nonsense: exactly one job comes of each intent, and nothing gives up."""

from __future__ import annotations

import json
import time
from pathlib import Path

import fake_batch
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfm_pipeline.batch_systems.base import JobState
from gfm_pipeline.batch_systems.commands import SchedulerTrouble, SubmissionRefused
from gfm_pipeline.batch_systems.slurm import Slurm
from gfm_pipeline.batch_systems.slurm_syntax import parse_seconds
from gfm_pipeline.core.errors import SchedulerUnavailable
from gfm_pipeline.execution.retry import Backoff

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct")
NO_SACCT = "fail Slurm accounting storage is disabled"
SECONDS = 1.0  # time-out of a command here


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    return tmp_path / "fake"


@pytest.fixture
def slurm(fake: Path) -> Slurm:
    environment = fake_batch.install(fake, *COMMANDS)
    (fake / "job.sh").write_text("#!/bin/bash\n")
    return Slurm(environment | {"SBATCH_ACCOUNT": "other", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "3"}, SECONDS)


def insist(slurm: Slurm, fake: Path, name: str = "block-1", most: int = 8) -> str:
    """Submit as the driver does: after trouble, the same again."""
    return fake_batch.insist(lambda: slurm.submit(fake / "job.sh", name), most)


def test_a_job_is_submitted_once_for_its_name(slurm, fake):
    first = slurm.submit(fake / "job.sh", "block-1")
    assert slurm.submit(fake / "job.sh", "block-1") == first
    assert slurm.submit(fake / "job.sh", "block-2") != first
    assert len(fake_batch.submitted(fake)) == 2


def test_nothing_of_the_caller_s_job_leaks_into_the_new_one(slurm, fake):
    job = slurm.submit(fake / "job.sh", "block-1")
    assert '"leaked": []' in (fake / "jobs" / job).read_text()


@pytest.mark.parametrize(
    "behaviours",
    [
        ["late"],
        ["hang"],
        ["lost Batch job submission failed: Socket timed out on send/recv operation"],
        ["fail Batch job submission failed: Unable to contact slurm controller (connect failure)"],
        ["fail Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"],
        ["say nonsense"],
        ["hang", "late"],
        ["fail Batch job submission failed: Zero Bytes were transmitted or received", "hang", "lost timed out"],
    ],
)
def test_whatever_sbatch_does_one_job_comes_of_it(slurm, fake, behaviours):
    fake_batch.plan(fake, "sbatch", *behaviours)
    job = insist(slurm, fake)
    assert list(fake_batch.submitted(fake)) == [job]


@pytest.mark.parametrize("trouble", ["hang", "fail Unable to contact slurm controller", "say 12|half a li"])
def test_nothing_is_submitted_while_the_queue_cannot_be_read(slurm, fake, trouble):
    fake_batch.plan(fake, "squeue", trouble)
    with pytest.raises(SchedulerTrouble):
        slurm.submit(fake / "job.sh", "block-1")
    assert not fake_batch.submitted(fake)


def test_an_answer_that_never_came_and_a_queue_that_cannot_be_read_are_settled_later(slurm, fake):
    fake_batch.plan(fake, "sbatch", "late")
    fake_batch.plan(fake, "squeue", "", "hang", "say rubbish", "")
    job = insist(slurm, fake)
    assert list(fake_batch.submitted(fake)) == [job]


@given(
    sbatch=st.lists(st.sampled_from(["late", "hang", "lost x", "fail y", "say z", ""]), max_size=3),
    squeue=st.lists(st.sampled_from(["hang", "fail y", "say z", ""]), max_size=3),
)
@settings(max_examples=6, deadline=None)
def test_any_row_of_troubles_leaves_one_job(tmp_path_factory, sbatch, squeue):
    fake = tmp_path_factory.mktemp("batch") / "fake"
    slurm = Slurm(fake_batch.install(fake, *COMMANDS), SECONDS)
    (fake / "job.sh").write_text("#!/bin/bash\n")
    fake_batch.plan(fake, "sbatch", *sbatch)
    fake_batch.plan(fake, "squeue", *squeue)
    job = insist(slurm, fake, most=12)
    assert list(fake_batch.submitted(fake)) == [job]


def test_a_job_that_shows_up_late_is_not_doubled_for_long(slurm, fake):
    """The controller takes a job after its sbatch was killed and after the queue was read."""
    fake_batch.plan(fake, "sbatch", "hang")
    with pytest.raises(SchedulerTrouble):
        slurm.submit(fake / "job.sh", "block-1")
    job = slurm.submit(fake / "job.sh", "block-1")
    (fake / "jobs" / "1500").write_text((fake / "jobs" / job).read_text())
    told = slurm.jobs(["block-1"])
    assert told["block-1"].id == job
    assert fake_batch.submitted(fake) == {job: "PENDING", "1500": "CANCELLED"}


def test_after_a_new_start_the_older_of_two_jobs_counts(fake, slurm):
    job = slurm.submit(fake / "job.sh", "block-1")
    (fake / "jobs" / "1500").write_text((fake / "jobs" / job).read_text())
    again = Slurm(fake_batch.install(fake / "other", *COMMANDS) | {"PATH": f"{fake / 'bin'}:/usr/bin:/bin"}, SECONDS)
    assert again.submit(fake / "job.sh", "block-1") == job
    assert fake_batch.submitted(fake)["1500"] == "CANCELLED"


def test_a_job_that_ended_and_was_forgotten_is_found_in_the_accounts(slurm, fake):
    job = slurm.submit(fake / "job.sh", "block-1")
    fake_batch.set_state(fake, job, "GONE", ended="TIMEOUT", nodes="n1,n2")
    assert slurm.submit(fake / "job.sh", "block-1") == job
    told = slurm.jobs([job, "block-1"])
    assert told[job] == told["block-1"]
    assert told[job].state is JobState.TIMEOUT
    assert told[job].nodes == ("n1", "n2")
    fake_batch.set_state(fake, job, "GONE", ended="CANCELLED by 0")
    assert slurm.jobs([job])[job].state is JobState.CANCELLED


def test_without_accounts_a_vanished_job_is_unknown(slurm, fake):
    job = slurm.submit(fake / "job.sh", "block-1")
    fake_batch.plan(fake, "sacct", NO_SACCT)
    fake_batch.set_state(fake, job, "GONE")
    assert slurm.jobs([job])[job].state is JobState.UNKNOWN
    assert not slurm.jobs([job])[job].state.has_ended
    assert sum(line.startswith("sacct") for line in fake_batch.calls(fake)) == 2  # asked once more in vain, then never


def test_accounts_that_do_not_answer_are_trouble_and_not_an_end(slurm, fake):
    job = slurm.submit(fake / "job.sh", "block-1")
    fake_batch.set_state(fake, job, "GONE", ended="COMPLETED")
    fake_batch.plan(fake, "sacct", "fail Problem talking to the database: Connection refused", "hang")
    for _ in range(2):
        with pytest.raises(SchedulerTrouble):
            slurm.jobs([job])
    assert slurm.jobs([job])[job].state is JobState.COMPLETED


@pytest.mark.parametrize(
    "words",
    [
        "Batch job submission failed: Invalid account or account/partition combination specified",
        "Batch job submission failed: Invalid qos specification",
        "invalid partition specified: nix",
        "Batch job submission failed: Requested node configuration is not available",
        "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
        "Unable to open file nowhere.sh",
        "Batch job submission failed: User's group not permitted to use this partition",
    ],
)
def test_what_will_never_be_taken_is_refused_at_once(slurm, fake, words):
    fake_batch.plan(fake, "sbatch", f"fail {words}")
    with pytest.raises(SubmissionRefused) as refused:
        slurm.submit(fake / "job.sh", "block-1")
    assert words.rpartition("failed: ")[2] in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "words", ["Invalid authentication credential", "Unable to contact slurm controller", "Slurm backup controller"]
)
def test_what_may_pass_is_trouble(slurm, fake, words):
    fake_batch.plan(fake, "sbatch", f"fail Batch job submission failed: {words}")
    with pytest.raises(SchedulerTrouble, match=words):
        slurm.submit(fake / "job.sh", "block-1")


def test_a_command_that_hangs_is_killed_with_all_it_started(slurm, fake):
    fake_batch.plan(fake, "squeue", "hang")
    started = time.monotonic()
    with pytest.raises(SchedulerTrouble, match=r"squeue did not answer within 1 s"):
        slurm.jobs(["1"])
    assert time.monotonic() - started < SECONDS + 3
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(fake) in " ".join(p.info["cmdline"] or [])]


def test_without_slurm_the_fix_is_told():
    with pytest.raises(SchedulerUnavailable) as missing:
        Slurm({"PATH": "/nowhere"}).jobs(["1"])
    assert missing.value.exit_code == 4
    assert not isinstance(missing.value, SchedulerTrouble)
    assert "login node" in str(missing.value)


def test_other_people_s_tools_name_their_jobs_as_they_like(slurm, fake):
    (fake / "jobs" / "900").write_text('{"name": "a|b c|", "state": "EXPEDITING", "nodes": ""}')
    job = slurm.submit(fake / "job.sh", "block-1")
    told = slurm.jobs([job, "900"])
    assert told[job].state is JobState.PENDING
    assert told["900"].name == "a|b c|"
    assert told["900"].state is JobState.PENDING


def test_cancelling_nothing_calls_nothing(slurm, fake):
    slurm.cancel([])
    assert not fake_batch.calls(fake)
    with pytest.raises(ValueError, match="not a name"):
        slurm.cancel_by_name("")


def test_cancelling_what_has_ended_is_no_trouble(slurm, fake):
    fake_batch.plan(fake, "scancel", "fail Kill job error on job id 7: Invalid job id specified", "fail timed out")
    slurm.cancel(["7"])
    with pytest.raises(SchedulerTrouble):
        slurm.cancel(["7"])


def test_nodes_that_are_no_good(slurm, fake):
    (fake / "nodes").write_text(
        "n1|idle|none\nn2|down*|Not responding\nn3|draining|health\nn4|allocated*|none\n"
        "n5|drained|gpu 3 | lost\nn9|down|x"
    )
    assert slurm.bad_nodes(["n1", "n2", "n3", "n4", "n5"]) == {
        "n2": "down*: Not responding",
        "n4": "allocated*",
        "n5": "drained: gpu 3 | lost",
    }
    assert slurm.bad_nodes([]) == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784.0),
        ("2:03:04", 7384.0),
        ("5:00", 300.0),
        ("0:07", 7.0),
        ("UNLIMITED", None),
        ("INVALID", 0.0),
    ],
)
def test_times_of_slurm(text, seconds):
    assert parse_seconds(text) == seconds


def test_a_time_nobody_understands_is_trouble():
    with pytest.raises(SchedulerTrouble):
        parse_seconds("soon")


@given(st.integers(1, 80), st.floats(0, 1e6))
def test_patience_doubles_up_to_its_most_and_starts_again_after_success(troubles, now):
    patience = Backoff()
    waits = []
    for _ in range(troubles):
        patience = patience.after_trouble(now)
        waits.append(patience.seconds_to_wait(now))
    assert waits == pytest.approx([min(300.0, 5.0 * 2.0**i) for i in range(troubles)])
    assert patience.seconds_to_wait(now + 301) == 0
    assert patience.after_success() == Backoff()


@pytest.mark.parametrize(
    "name",
    [
        "odd\nname",
        "5|RUNNING|1:00|n1|None|block-1\n",
        "a\n1000|COMPLETED|10:00||None|block-1",
        "\u2028\x85 \u00fc\u4e2d|\u202e",
        " block-1",
        "block-1 ",
        "\t\n\n",
    ],
)
def test_a_name_of_another_job_confuses_nothing(slurm, fake, name):
    (fake / "jobs" / "900").write_text(json.dumps({"name": name, "state": "RUNNING", "nodes": "n7"}))
    job = slurm.submit(fake / "job.sh", "block-1")
    told = slurm.jobs([job, "block-1", "block-2"])
    assert told[job] == told["block-1"]
    assert (told[job].id, told[job].name, told[job].state) == (job, "block-1", JobState.PENDING)
    assert told["block-2"].state is JobState.UNKNOWN
    assert fake_batch.submitted(fake)["900"] == "RUNNING"


def test_the_name_of_the_cluster(fake):
    environment = fake_batch.install(fake, "scontrol")
    fake_batch.plan(fake, "scontrol", "say ClusterName             = east")
    slurm = Slurm(environment | {"SLURM_CLUSTER_NAME": "left over from a job"}, SECONDS)
    assert [slurm.cluster(), slurm.cluster()] == ["east", "east"]
    assert len(fake_batch.calls(fake)) == 1
    assert Slurm({"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "west"}).cluster() == "west"


def test_which_job_this_is():
    inside = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "gfm-x-j001"}
    assert Slurm(inside).my_job() == ("7", "gfm-x-j001", 0)
    assert Slurm(inside | {"SLURM_RESTART_COUNT": "2"}).my_job() == ("7", "gfm-x-j001", 2)
    assert Slurm({}).my_job()[0] == ""


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("COMPLETING N/A 4:56", JobState.CANCELLED),
        ("COMPLETING N/A UNLIMITED", JobState.CANCELLED),
        ("COMPLETING 2026-11-30T06:24:24 4:56", JobState.PREEMPTED),
        ("COMPLETING N/A 0:00", JobState.TIMEOUT),
        ("COMPLETING N/A INVALID", JobState.TIMEOUT),
        ("CANCELLED N/A 4:56", JobState.CANCELLED),
        ("PREEMPTED N/A 4:56", JobState.PREEMPTED),
        ("RUNNING N/A 4:56", None),
        ("", None),
    ],
)
def test_how_this_job_is_being_ended(fake, words, state):
    environment = fake_batch.install(fake, "squeue")
    fake_batch.plan(fake, "squeue", f"say {words}")
    assert Slurm(environment | {"SLURM_JOB_ID": "7"}, SECONDS).ending() is state
    assert Slurm(environment, SECONDS).ending() is None


@pytest.mark.parametrize(
    ("behaviour", "joules"),
    [("say 1234567", 1234567.0), ("say 0", None), ("say", None), ("say 1.2K", None)],
)
def test_energy_of_a_job_is_what_slurm_accounted_for_its_allocation(slurm, fake, behaviour, joules):
    fake_batch.plan(fake, "sacct", behaviour)
    assert slurm.job_energy("42") == joules
    assert (
        "sacct --noheader --parsable2 --allocations --jobs=42 --format=ConsumedEnergyRaw" in fake_batch.calls(fake)[-1]
    )


def test_energy_is_not_known_where_slurm_keeps_no_accounts(slurm, fake):
    fake_batch.plan(fake, "sacct", NO_SACCT)
    with pytest.raises(SchedulerUnavailable):
        slurm.job_energy("42")
