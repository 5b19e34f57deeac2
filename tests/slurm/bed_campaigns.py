"""Start campaigns on the test bed, watch them, and read what they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import testbed
from machines import RELIABILITY, Machine

sys.path[:0] = [p for p in (str(RELIABILITY), str(RELIABILITY.parent / "e2e")) if p not in sys.path]

import pretended  # noqa: E402
import runs  # noqa: E402

from gfm_pipeline.campaign import events as ev  # noqa: E402

WORKFLOW = """\
name: pretended
seed: 5
data:
  sources:
    alloys: {reader: emt-alloys, shards: 2}
search:
  candidates: 4
  asynchronous: false
  wave: 2
  rungs: [100, 200]
  reduction: 2
  space:
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    hidden: [8, 16]
    learning_rate: {low: 1e-3, high: 1e-2, scale: log}
converge:
  members: 2
  check_every: 100
  max_graphs: 400
"""
# Few workers a node: each is a process, and all nodes are this one machine.
RESOURCES = """\
resources:
  ingest: {{cores: 28}}
  calibrate: {{cores: 28}}
  search: {{nodes: {search}, ranks_per_node: {ranks}}}
  converge: {{nodes: {converge}, ranks_per_node: {ranks}}}
allocation: {{nodes: {nodes}, hours: {hours}, blocks: {blocks}, stages: {stages}}}
limits: {{wrapper_timeout_seconds: 40, stop_seconds: 20}}
"""


@dataclass
class Run:
    """One campaign on one machine."""

    bed: testbed.TestBed
    machine: Machine
    folder: Path
    mode: str
    nodes: int = 4
    blocks: int = 1
    search: tuple[int, ...] | str = (1, 2)
    converge: int | str = 2
    hours: float = 0.2
    step_seconds: float = 0.01
    warning: int = 20
    limits: str = ""  # of launches, as lines of the site file
    prologue: str = ""  # a command of every job, before its pools are launched
    workflow: str = WORKFLOW
    stages: str = "{}"  # jobs of their own
    energy: Path | None = None  # folder of the counters of every node
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pace(self.step_seconds)
        text = self.workflow + RESOURCES.format(
            search=self.search if isinstance(self.search, str) else list(self.search),
            converge=self.converge,
            ranks=self.machine.ranks,
            nodes=self.nodes,
            hours=self.hours,
            blocks=self.blocks,
            stages=self.stages,
        )
        (self.folder / "w.yaml").write_text(text)
        self.overlay = self.machine.overlay(
            self.folder,
            mode=self.mode,
            nodes=self.nodes,
            warning=self.warning,
            limits=self.limits,
            prologue=self.prologue,
        )
        if self.energy is not None:
            self.overlay.write_text(
                self.overlay.read_text() + f"energy: {{source: pm_counters, path: '{self.energy}'}}\n"
            )

    def pace(self, seconds: float, *tasks: str) -> None:
        """Say how long a step takes of trainings that start from now on: all that are not named, or these."""
        for name in [f"step_seconds.{task}" for task in tasks] or ["step_seconds"]:
            (self.folder / name).write_text(str(seconds))

    @property
    def campaign(self) -> Path:
        return pretended.campaign_of(self.folder)

    @property
    def journal(self) -> Path:
        return pretended.journal_of(self.folder)

    def command(self, *words: str) -> subprocess.Popen[bytes]:
        """Start the command line on the "login node"."""
        with open(self.folder / "driver.log", "ab") as log:
            process = subprocess.Popen(
                runs.command(*words), cwd=self.folder, env=self.bed.environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.drivers.append(process)
        return process

    def start(self) -> subprocess.Popen[bytes]:
        """Submit the campaign, or start its driver here."""
        verb = "submit" if self.mode == "resident" else "run"
        return self.command(verb, "w.yaml", "--site", self.machine.site, "--overlay", str(self.overlay))

    def to_the_end(self, seconds: float = 300.0) -> None:
        """Wait for the campaign to be done and for its jobs to be gone."""
        self.wait_for(
            lambda events: any(isinstance(e, ev.StageDone) and e.outputs.keys() == {"ensemble"} for e in events),
            seconds,
        )
        for driver in self.drivers:
            assert driver.wait(60) in (0, -9), self.story()
        self.wait_gone(60)

    def cancel(self) -> None:
        """Cancel the campaign, and hold that no job is left, nor comes."""
        done = subprocess.run(
            runs.command("cancel", str(self.campaign)),
            cwd=self.folder, env=self.bed.environment(), capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self.wait_gone(60)
        time.sleep(2)
        assert not self.bed.jobs()

    def events(self) -> list[ev.Event]:
        return runs.events(self.journal)

    def wait_for(self, wanted: Callable[[list[ev.Event]], bool], seconds: float = 240.0) -> None:
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            events = self.events()
            if wanted(events):
                return
            assert not any(isinstance(e, ev.StageFailedEvent) for e in events), self.story()
            for driver in self.drivers:
                assert driver.poll() in (None, 0, -9), self.story()
            time.sleep(0.2)
        raise AssertionError(f"the campaign never came so far\n{self.story()}")

    def wait_gone(self, seconds: float) -> None:
        """Wait until no job is left."""
        give_up = time.monotonic() + seconds
        while self.bed.jobs():
            assert time.monotonic() < give_up, f"jobs left: {self.bed.jobs()}\n{self.story()}"
            time.sleep(0.2)

    def story(self) -> str:
        """Return what everyone said, for a test that failed."""
        logs = [self.folder / "driver.log", *sorted(self.campaign.glob("jobs/*.out"))]
        said = "".join(f"--- {p.name}\n{p.read_text()[-3000:]}\n" for p in logs if p.exists())
        return said + "\n".join(str(e)[:300] for e in self.events()[-25:])

    # ---------------------------------------------------------------- what is to be seen in the journal

    def starts(self) -> list[ev.TaskStarted]:
        return [e for e in self.events() if isinstance(e, ev.TaskStarted)]

    def finished(self) -> set[tuple[str, int]]:
        """Return the attempts that brought a result."""
        ended = [e for e in self.events() if isinstance(e, ev.TaskEnded)]
        return {(e.task, e.attempt) for e in ended if e.cause is ev.Cause.FINISHED}

    def running(self) -> list[ev.TaskStarted]:
        """Return the attempts that have started and not ended."""
        found: dict[tuple[str, int], ev.TaskStarted] = {}
        for event in self.events():
            if isinstance(event, ev.TaskStarted):
                found[event.task, event.attempt] = event
            elif isinstance(event, ev.TaskEnded):
                found.pop((event.task, event.attempt), None)
        return list(found.values())

    def jobs(self) -> dict[str, str]:
        """Return the numbers of the campaign's jobs by their names."""
        return {e.name: e.job for e in self.events() if isinstance(e, ev.JobSubmitted)}

    def training(self) -> list[ev.TaskStarted]:
        """Return the trainings that are at work, their first rank among them."""
        return [s for s in self.running() if self.nodes_of(s)]

    def nodes_of(self, start: ev.TaskStarted) -> list[str]:
        """Return the nodes of a training, in the order of its ranks, as its ranks say."""
        return list(dict.fromkeys(seen["SLURMD_NODENAME"] for seen in self.seen(start)))

    def seen(self, start: ev.TaskStarted) -> list[dict[str, str]]:
        """Return what the ranks of an attempt noted, by rank."""
        found = self.campaign.glob(f"stages/*/tasks/{start.task}/attempt-{start.attempt}/seen/*.json")
        return sorted((json.loads(p.read_text()) for p in found), key=lambda one: int(one["RANK"] or 0))

    def clean_up(self) -> None:
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
            driver.wait()


def reference(folder: Path, workflow: str = WORKFLOW) -> Path:
    """Run the same campaign on this machine, uninterrupted; return its folder."""
    words = pretended.write_campaign(folder, workflow)
    done = subprocess.run(runs.command(*words), cwd=folder, capture_output=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr.decode()
    return folder


def sizes_together(run: Run) -> list[set[int]]:
    """Hold that no node worked for two trainings at a time; return the sizes that ran at each moment."""
    where = {(s.task, s.attempt): run.nodes_of(s) for s in run.starts()}
    busy: dict[str, str] = {}
    running: dict[tuple[str, int], int] = {}
    moments = []
    for event in run.events():
        if isinstance(event, ev.TaskStarted) and (nodes := where[event.task, event.attempt]):
            for node in nodes:
                assert node not in busy, f"{node} works for {event.task} while {busy[node]} has it"
                busy[node] = event.task
            running[event.task, event.attempt] = len(nodes)
            moments.append(set(running.values()))
        elif isinstance(event, ev.TaskEnded) and running.pop((event.task, event.attempt), None):
            for node in where[event.task, event.attempt]:
                del busy[node]
    return moments
