"""The verdicts of `sites check`, its waiting for the job, and the check of this machine."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import site_cases

from gfm_pipeline.apps.runtime.launcher_probe import LauncherView
from gfm_pipeline.batch_systems.base import JobInfo, JobState
from gfm_pipeline.batch_systems.commands import SchedulerTrouble
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.contracts.preflight import PreflightResult, RankObservation, Rate
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.execution.preflight.login import refusal_fix, small_job
from gfm_pipeline.execution.preflight.monitor import JobMonitor
from gfm_pipeline.execution.preflight.observations import (
    DONE_FILE,
    HEAD_FILE,
    PING_FILE,
    PONG_FILE,
    RANKS,
    SPAWN,
    VIEW,
    HeadNodeObservation,
    JobObservations,
    LaunchObservation,
    Pong,
    Skew,
)
from gfm_pipeline.execution.preflight.verdict import CheckStatus
from gfm_pipeline.execution.preflight.verdicts import CHECKS, check_results
from gfm_pipeline.sites.cores import format_cores, parse_cores
from gfm_pipeline.sites.limits import CheckedJob, Refusal

NODES = ("fr1", "fr2")
ORDER = (4, 5, 2, 3, 6, 7, 0, 1)
BESIDE = dict(enumerate(site_cases.FRONTIER["node"]["gpu_cores"]))
SITE = site_cases.site(
    site_cases.FRONTIER_PAID, driver={"mode": "resident", "interface": "hsn0"}, energy={"source": "pm_counters"}
)


def rank(number: int) -> RankObservation:
    local = number % 8
    first = {"packages": {"gfm_pipeline": "1", "torch": "2.10+rocm7.1"}, "energy": {"pm_counters": 5.0}}
    return RankObservation(
        rank=number,
        local_rank=local,
        node=NODES[number // 8],
        mask=str(ORDER[local]),
        cores=parse_cores(BESIDE[ORDER[local]]),
        python="3.11.7",
        executable="/env/bin/python",
        build="rocm 7.1",
        devices=1,
        device="MI250X",
        device_cores=BESIDE[ORDER[local]],
        written=900.0 if number == 0 else None,
        read=800.0 if number == 15 else None,
        **(first if local == 0 else {}),
    )


RANKED = tuple(rank(k) for k in range(16))
LOOKS = tuple(LauncherView(r.node, r.rank, r.local_rank, r.mask, r.cores) for r in RANKED)
WELL = LaunchObservation(0)
GOOD = JobObservations(
    head=HeadNodeObservation(NODES, "fr1", "/env/bin/python", ("lo", "hsn0")),
    launches={VIEW: WELL, RANKS: WELL, SPAWN: WELL},
    views=LOOKS,
    ranks=RANKED,
    spawned=RANKED[:8],
    result=PreflightResult("nccl", True, (Rate(64.0, 0.01),), (0.0,) * 16),
    skew=Skew(0.3, 0.2),
)


def changed(what: str, number: int = 3, **values) -> JobObservations:
    """Return what is good, but for one of ``ranks``, ``looks`` or ``spawned``."""
    items = list(getattr(GOOD, what))
    items[number] = replace(items[number], **values)
    return replace(GOOD, **{what: tuple(items)})


def by_name(seen: JobObservations, site=SITE, nodes: int = 2):
    return {verdict.check: verdict for verdict in check_results(site, nodes, seen)}


def test_a_machine_as_its_site_says_passes_every_check():
    found = check_results(SITE, 2, GOOD)
    assert [verdict.check for verdict in found] == list(CHECKS)
    skips = {verdict.check for verdict in found if verdict.outcome is not CheckStatus.PASS}
    assert skips == {"MPI"}
    assert "64 MB at 6.4 GB/s (nccl, 16 ranks)" in by_name(GOOD)["all-reduce"].measured
    assert "read on another node at 800 MB/s" in by_name(GOOD)["ADIOS2"].measured


def permuted() -> JobObservations:
    """Launchers that give GPUs by rank, which ranks refuse: no program starts."""
    looks = tuple(replace(look, mask=str(look.local_rank)) for look in LOOKS)
    refused = LaunchObservation(30, error="Rank 0 on fr1 sees GPU 0 (ROCR_VISIBLE_DEVICES), the site gives it GPU 4.")
    return replace(GOOD, views=looks, ranks=(), result=None, launches={VIEW: WELL, RANKS: refused, SPAWN: WELL})


FAULTS = [
    ("devices", permuted(), "rank 0 of a node is given GPU 0", "node.rank_gpus: [0, 1, 2, 3, 4, 5, 6, 7]"),
    ("devices", changed("ranks", mask="0"), "rank 3 on fr1 sees GPU 0", "node.rank_gpus"),
    ("devices", changed("ranks", devices=8), "torch sees 8 devices", "gpu.unset"),
    ("devices", changed("ranks", device_trouble="No HIP GPUs are available"), "No HIP GPUs", "gpu.unset"),
    ("cores", changed("ranks", cores=(1, 2), device_cores=""), "rank 3 of fr1 may use 1-2", "node.gpu_cores"),
    ("GPU beside cores", changed("ranks", device_cores="0-7"), "its GPU is beside 0-7", "node.rank_gpus"),
    ("one-node ranks", changed("spawned", mask="0"), "rank 3 sees GPU 0, not 3", "node.rank_gpus"),
    ("one-node ranks", replace(GOOD, spawned=RANKED[:3]), "3 of 8 ranks came up", "stderr.log"),
    ("ranks", replace(GOOD, views=LOOKS[:15]), "15 ranks on 2 nodes, not 16 on 2", "launch.template"),
    (
        "ranks",
        changed("views", rank=None, numbers={"PMI_RANK": "3"}),
        "not set by the launcher; there are PMI_RANK=3",
        "launch.rank_variable",
    ),
    ("packages", changed("ranks", 8, missing={"adios2": "ImportError: no"}), "adios2 cannot be imported on fr2", "env"),
    ("torch build", changed("ranks", 8, build="cuda 12.8"), "built for cuda 12.8, rocm 7.1", "build of torch for rocm"),
    ("versions", changed("ranks", 8, packages={"torch": "2.9"}), "torch 2.10+rocm7.1 on fr1, 2.9 on fr2", "one env"),
    ("versions", changed("ranks", 8, python="3.10.1"), "3.10.1", "activate"),
    ("MPI", changed("ranks", 0, mpi_trouble="libmpi.so.12: not found"), "libmpi.so.12", "mpi4py"),
    ("ADIOS2", changed("ranks", 15, data_trouble="OSError: did not appear"), "on fr2", "--folder"),
    ("energy", changed("ranks", 8, energy={}, energy_trouble={"pm_counters": "denied"}), "denied", "model"),
    ("clocks", replace(GOOD, skew=Skew(-9.0, 1.0)), "-9.00 s", "NTP"),
    ("clocks", replace(GOOD, result=replace(GOOD.result, clocks=(*[0.0] * 15, 3.5))), "3500.0 ms", "NTP"),
    ("interface", replace(GOOD, head=replace(GOOD.head, interfaces=("lo", "eth0"))), "eth0", "driver.interface"),
    (
        "all-reduce",
        replace(
            GOOD, result=None, launches=GOOD.launches | {RANKS: LaunchObservation(20, error="Rank 0 lost the others.")}
        ),
        "Rank 0 lost the others",
        "NCCL_SOCKET_IFNAME",
    ),
    ("all-reduce", replace(GOOD, result=replace(GOOD.result, correct=False)), "wrong", "support"),
]


@pytest.mark.parametrize(("check", "seen", "measured", "fix"), FAULTS, ids=lambda v: v if isinstance(v, str) else "")
def test_each_fault_is_found_with_its_fix(check, seen, measured, fix):
    found = by_name(seen)
    assert found[check].outcome is CheckStatus.FAIL
    assert measured in found[check].measured
    assert fix in found[check].fix
    assert list(found) == list(CHECKS)
    others = {name for name, v in found.items() if v.outcome is CheckStatus.FAIL} - {check}
    assert not others


def test_cores_that_are_steady_are_proposed():
    ranks = tuple(replace(r, cores=parse_cores(BESIDE[7 - ORDER[r.local_rank]])) for r in RANKED)
    found = by_name(replace(GOOD, ranks=ranks))["cores"]
    assert found.outcome is CheckStatus.FAIL
    proposed = ", ".join(f'"{format_cores(parse_cores(BESIDE[7 - gpu]))}"' for gpu in range(8))
    assert f"node.gpu_cores: [{proposed}]" in found.fix


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("module rocm/9 cannot be loaded", "profiles.default.modules (`module avail rocm`"),
        ("the Python environment cannot be activated", "profiles.default.activate"),
        ("the Python environment did not reach every node", "staging.archive"),
        ("/env/bin/python: No such file or directory", "where compute nodes see it"),
    ],
)
def test_a_job_that_never_started_python(said, fix):
    found = check_results(SITE, 2, JobObservations(output=said))
    assert found[0].outcome is CheckStatus.FAIL
    assert found[0].measured == said
    assert fix in found[0].fix
    assert {verdict.outcome for verdict in found[1:]} == {CheckStatus.SKIPPED}


@pytest.mark.parametrize(
    ("refusal", "key"),
    [
        ("Invalid account or account/partition combination specified", "scheduler.account"),
        ("invalid partition specified: nope", "scheduler.queues.batch.partition"),
        ("Invalid qos specification", "scheduler.queues.batch.qos"),
        ("Invalid feature specification", "scheduler.constraint"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "scheduler.queues.batch.bins"),
        ("Requested node configuration is not available", "scheduler.queues.batch.bins"),
        ("unrecognized option '--nework=x'", "scheduler.directives"),
        ("qsub: Unknown queue", "scheduler.queues.batch.partition"),
    ],
)
def test_a_refusal_names_its_key(refusal, key):
    assert key in refusal_fix("batch", refusal)


def test_the_first_queue_that_takes_the_job_is_used_unless_one_is_named():
    queues = {
        name: site_cases.QUEUE | {"bins": [{"min_nodes": low, "max_nodes": 8, "max_hours": 3}]}
        for name, low in (("prod", 4), ("debug", 1))
    }
    site = site_cases.site(
        site_cases.TILES,
        scheduler={"kind": "pbs", "queues": queues, "default_queue": "prod", "account_required": False},
    )
    found = small_job(site, None, 2)
    assert isinstance(found, CheckedJob)
    assert found.queue == "debug"
    assert isinstance(small_job(site, "prod", 2), Refusal)


class Batch:
    """A batch system that does what a test says."""

    def __init__(self, states: list[JobInfo | SchedulerTrouble]) -> None:
        self.states, self.cancelled = states, []

    def submit(self, script: Path, name: str) -> str:
        return "7"

    def jobs(self, asked):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, SchedulerTrouble):
            raise state
        return {"7": state}

    def cancel(self, ids) -> None:
        self.cancelled += ids


def info(state: JobState, reason: str = "") -> JobInfo:
    return JobInfo("7", "n", state, reason=reason)


def test_waiting_outlives_trouble_and_compares_clocks(tmp_path):
    """The job answers from a thread, with a clock that is a hundred seconds ahead."""

    def job() -> None:
        write_record(tmp_path / HEAD_FILE, GOOD.head)
        while not (tmp_path / PING_FILE).exists():
            time.sleep(0.01)
        write_record(tmp_path / PONG_FILE, Pong(time.time() + 100))
        (tmp_path / DONE_FILE).touch()

    batch = Batch([SchedulerTrouble("squeue did not answer."), info(JobState.COMPLETED)])
    said: list[str] = []
    threading.Thread(target=job).start()
    watched = JobMonitor(batch, tmp_path, "batch", 0.1, 0.1, 60, 60, said.append).run(tmp_path / "job.sh", "n")
    assert watched.trouble == ""
    assert abs(watched.skew.seconds - 100) <= watched.skew.give + 0.1
    assert any("does not answer" in line for line in said)
    assert not batch.cancelled


def test_a_job_that_waits_too_long_is_cancelled(tmp_path):
    batch = Batch([info(JobState.PENDING, "Priority")])
    watched = JobMonitor(batch, tmp_path, "batch", 0.1, 0.1, 60, 0.6, lambda _: None).run(tmp_path / "job.sh", "n")
    assert "in queue batch (Priority); it was cancelled" in watched.trouble
    assert batch.cancelled == ["7"]


def test_this_machine_passes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert invoke(["sites", "check", "local", "--json", "--keep"]) == 0
    found = json.loads(capsys.readouterr().out)
    outcomes = {verdict["check"]: verdict["outcome"] for verdict in found["checks"]}
    assert {name for name, outcome in outcomes.items() if outcome == "pass"} >= {
        "start", "packages", "versions", "ranks", "ADIOS2",
    }  # fmt: skip
    assert "fail" not in outcomes.values()
    assert Path(found["folder"]).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["frontier"], 2, "need an account that is charged"),
        (["frontier", "--set", "site.scheduler.account=a", "--queue", "batsh"], 2, "Did you mean 'batch'?"),
        (["frontier", "--set", "site.scheduler.account=a", "--nodes", "10000"], 2, "has 9,856 nodes, not 10,000"),
        (["frontier", "--set", "site.scheduler.account=a"], 4, "sbatch"),
        (["slurm"], 2, "does not say how many cores a node has"),
        (["local", "--nodes", "2"], 2, "has 1 node, not 2"),
        (["local", "--set", "search.candidates=2"], 2, "is not for the site"),
    ],
)
def test_wrong_input(arguments, code, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert invoke(["sites", "check", *arguments]) == code
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("gfm-check-*"))
