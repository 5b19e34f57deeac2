"""Jobs that the journal names, whatever site submitted them: `run` says that one waits, `cancel` ends it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from workflow_cases import VALID

from gfm_pipeline.api.allocate import BatchEnvironment
from gfm_pipeline.api.jobs import stop_after_cancelled
from gfm_pipeline.batch_systems.slurm import Slurm
from gfm_pipeline.campaign.events import DriverEnded, DriverStarted, JobIntended, JobRole, JobSubmitted, to_entry
from gfm_pipeline.campaign.folder import driving
from gfm_pipeline.campaign.holder import JobIdentity
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.errors import Stopped

sys.path.insert(0, str(Path(__file__).parents[1] / "execution"))

import fake_batch

NAME = "gfm-small-01234567-j001"
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct")
CLUSTER = "say ClusterName             = east"


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """Return a pretended Slurm that is on PATH."""
    environment = fake_batch.install(tmp_path / "fake", *COMMANDS)
    monkeypatch.setenv("PATH", environment["PATH"])
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    fake_batch.plan(tmp_path / "fake", "scontrol", *[CLUSTER] * 9)
    return tmp_path / "fake"


@pytest.fixture
def campaign(fake, tmp_path, monkeypatch) -> Path:
    """Return a campaign for which a job waits in cluster `east`, submitted from a site that nothing names any more."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text(VALID)
    root = tmp_path / "campaigns" / "small"
    with driving(root, "small"):
        pass
    put(fake, "7", NAME, "PENDING")
    record(root, JobIntended(NAME, JobRole.DRIVER, 4, 2.0, "batch", "", "slurm", "east"), JobSubmitted(NAME, "7"))
    return root


def put(fake: Path, number: str, name: str, state: str) -> None:
    (fake / "jobs" / number).write_text(json.dumps({"name": name, "state": state, "nodes": ""}))


def record(root: Path, *events) -> None:
    with driving(root, "small") as opened:
        for event in events:
            opened.journal.append(*to_entry(event))


def run(*more: str) -> int:
    return invoke(["run", "w.yaml", "--site", "local", *more])


def test_run_elsewhere_says_that_a_job_of_the_campaign_waits_and_changes_nothing(campaign, fake, capsys):
    before = (campaign / "journal.jsonl").read_bytes()
    assert run() == 75
    said = capsys.readouterr().err
    assert f"Job 7 ({NAME}, slurm cluster east) of this campaign waits in the queue" in said
    assert f"gfm-pipeline cancel {campaign}" in said
    assert (campaign / "journal.jsonl").read_bytes() == before
    put(fake, "7", NAME, "RUNNING")
    assert run() == 75
    assert "of this campaign runs" in capsys.readouterr().err


def test_one_blind_answer_does_not_let_it_run_beside_the_job(campaign, fake, capsys):
    fake_batch.plan(fake, "squeue", "say", "say")
    fake_batch.plan(fake, "sacct", *["say"] * 9)
    put(fake, "7", NAME, "PENDING")
    settings = ("--set", "site.scheduler.missing_job_seconds=6")
    assert run(*settings) == 75
    assert "of this campaign waits" in capsys.readouterr().err


def test_cancel_ends_the_job_though_the_campaign_was_last_driven_without_a_batch_system(campaign, fake, capsys):
    record(campaign, DriverStarted("here", 1, "local", "0", 2, None, "w.yaml"), DriverEnded("stopped"))
    assert invoke(["cancel", str(campaign)]) == 0
    assert f"Cancelled batch jobs: 7 ({NAME})." in capsys.readouterr().out
    assert fake_batch.submitted(fake)["7"] == "CANCELLED"


def test_cancel_of_a_job_that_was_submitted_elsewhere_says_so(campaign, fake, capsys):
    fake_batch.plan(fake, "scontrol", *["say ClusterName = west"] * 9)
    put(fake, "7", "somebody-else-s", "RUNNING")
    assert invoke(["cancel", str(campaign)]) == 4
    said = capsys.readouterr().err
    assert f"Job 7 ({NAME}) of slurm cluster east cannot be cancelled from here" in said
    assert "this machine belongs to cluster west" in said
    assert fake_batch.submitted(fake)["7"] == "RUNNING"


def test_cancel_where_the_batch_system_does_not_exist_says_so(campaign, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert invoke(["cancel", str(campaign)]) == 4
    assert f"Job 7 ({NAME}) of slurm cluster east cannot be cancelled from here" in capsys.readouterr().err


def test_a_job_whose_driver_took_its_leave_is_over_by_its_own_word(campaign, fake, capsys):
    started = DriverStarted("n1", 1, "frontier", "0", 2, None, "w.yaml", {}, "7")
    record(campaign, started, DriverEnded("done"))
    (fake / "jobs" / "7").unlink()  # long forgotten, and there are no accounts
    assert invoke(["cancel", str(campaign)]) == 0
    assert "batch" not in capsys.readouterr().out
    assert load_state(campaign / "journal.jsonl").driver_left("7")


NEXT = "gfm-small-01234567-j002"


@pytest.mark.parametrize(
    ("state", "goes_on"),
    [("CANCELLED by 1000", False), ("PREEMPTED", True), ("TIMEOUT", True), ("NODE_FAIL", True), ("FAILED", True)],
)
def test_a_job_of_a_chain_ends_at_once_when_a_person_cancelled_the_one_before(campaign, fake, state, goes_on):
    fake_batch.set_state(fake, "7", "GONE", ended=state)
    put(fake, "8", NEXT, "RUNNING")
    record(campaign, JobIntended(NEXT, JobRole.DRIVER, 4, 2.0, "batch", "7", "slurm", "east"), JobSubmitted(NEXT, "8"))
    slurm = Slurm({**os.environ, "SLURM_JOB_ID": "8", "SLURM_CLUSTER_NAME": "east"})
    around = BatchEnvironment(slurm, JobIdentity("8", NEXT, "slurm", "east", 0), 1.0, lambda _: None)
    with driving(campaign, "small") as opened:
        if goes_on:
            stop_after_cancelled(opened, around)
            assert NEXT in opened.state.open_jobs()
            return
        with pytest.raises(Stopped, match=r"Job 7 was cancelled by a person \(CANCELLED by 1000\)") as caught:
            stop_after_cancelled(opened, around)
        assert caught.value.exit_code == 3
        assert "gfm-pipeline resume" in str(caught.value)
        assert NEXT not in opened.state.open_jobs()


def test_a_job_that_a_person_submitted_goes_on_whatever_became_of_earlier_ones(campaign, fake):
    fake_batch.set_state(fake, "7", "GONE", ended="CANCELLED by 1000")
    put(fake, "8", NEXT, "RUNNING")
    record(campaign, JobIntended(NEXT, JobRole.DRIVER, 4, 2.0, "batch", "", "slurm", "east"), JobSubmitted(NEXT, "8"))
    around = BatchEnvironment(Slurm(os.environ), JobIdentity("8", NEXT, "slurm", "east", 0), 1.0, lambda _: None)
    with driving(campaign, "small") as opened:
        stop_after_cancelled(opened, around)
