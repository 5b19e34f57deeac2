"""A simulated batch system: jobs wait, begin, run out of time or are cancelled, and answers take time."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfm_pipeline.batch_systems.base import JobInfo, JobState, missing
from gfm_pipeline.batch_systems.commands import SchedulerTrouble
from gfm_pipeline.engine.background import QueryResult
from gfm_pipeline.simulate.clock import Event, SimulatedClock
from gfm_pipeline.simulate.cluster import HOUR, Cluster
from gfm_pipeline.simulate.scenario import BatchModel

SILENT_SECONDS = 120.0  # time-out of a query


@dataclass
class Job:
    """One batch job."""

    id: str
    name: str
    nodes: int
    seconds: float
    after: str = ""
    submitted: float = 0.0
    eligible: float | None = None  # start of its wait for nodes, after any wait for another job
    started: float | None = None
    ended: float | None = None
    state: JobState = JobState.PENDING
    held: tuple[str, ...] = ()
    endings: list[Event] = field(default_factory=list)


class SimulatedQueue:
    """Jobs on a cluster (`gfm_pipeline.batch_systems.job_queue.JobQueue`).

    Parameters
    ----------
    clock, cluster
        Time, and nodes.
    model
        The assumptions.
    shape
        Nodes and seconds of every job submitted from now on.
    seed
        Seed of waits, cancellations and silence.
    """

    def __init__(
        self, clock: SimulatedClock, cluster: Cluster, model: BatchModel, shape: tuple[int, float], seed: int
    ) -> None:
        self.all: list[Job] = []
        self.on_end: Callable[[Job], None] = lambda _: None
        self._clock, self._cluster, self._model, self.shape = clock, cluster, model, shape
        self._random = random.Random(f"batch system {seed}")
        self._after: dict[Path, str] = {}

    def script(self, name: str, after: str | None = None) -> Path:
        """Return the path of a batch script, which is never written; ``after``: the previous job."""
        path = Path(f"{name}.sh")
        self._after[path] = after or ""
        return path

    def submit(self, script: Path, name: str) -> str:
        """Submit a job, unless a job has this name; return its id."""
        known = next((job for job in self.all if job.name == name), None)
        if known is not None:
            return known.id
        job = Job(str(1000 + len(self.all)), name, *self.shape, self._after.get(script, ""), self._clock.now)
        self.all.append(job)
        before = self._by_id(job.after)
        if before is None or before.state.has_ended:
            self._wait(job)
        return job.id

    def jobs(self, names_or_ids: Collection[str]) -> dict[str, JobInfo]:
        """Return the known facts of jobs."""
        found = {}
        for name_or_id in names_or_ids:
            job = next((job for job in reversed(self.all) if name_or_id in (job.id, job.name)), None)
            found[name_or_id] = missing(name_or_id) if job is None else self._info(job)
        return found

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs."""
        for job in self.all:
            if job.id in ids:
                self.end(job, JobState.CANCELLED)

    def cancel_by_name(self, name: str) -> None:
        """End every job of this name."""
        self.cancel([job.id for job in self.all if job.name == name])

    def bad_nodes(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return the nodes known to be down."""
        known = self._cluster.known_bad
        return {node: known[node] for node in nodes if node in known} if known else {}

    def end(self, job: Job, state: JobState) -> None:
        """End a job in any way and free its nodes; start the jobs that waited for its end."""
        if job.state.has_ended:
            return
        job.state, job.ended = state, self._clock.now
        for event in job.endings:
            event.cancel()
        if job.held:
            self.on_end(job)
            self._cluster.let_go(job.id)
        for other in self.all:
            if other.after == job.id and other.state is JobState.PENDING:
                self._wait(other)
        for other in self.all:
            if other.eligible is not None and other.state is JobState.PENDING and not other.endings:
                self._begin(other)

    # ---------------------------------------------------------------- a job's life

    def _by_id(self, number: str) -> Job | None:
        return next((job for job in self.all if job.id == number), None)

    def _wait(self, job: Job) -> None:
        job.eligible = self._clock.now
        mean = self._model.wait_hours * HOUR
        wait = self._random.expovariate(1.0 / mean) if mean else 0.0
        job.endings = [self._clock.after(wait, lambda: self._begin(job))]

    def _begin(self, job: Job) -> None:
        if job.state is not JobState.PENDING:
            return
        job.endings = []
        if self._cluster.free < job.nodes:
            return  # it begins when another job ends
        job.state, job.started = JobState.RUNNING, self._clock.now
        job.held = self._cluster.hold(job.id, job.nodes, lambda: self.end(job, JobState.NODE_FAIL))
        if job.seconds != float("inf"):
            job.endings.append(self._clock.after(job.seconds, lambda: self.end(job, JobState.TIMEOUT)))
        if self._model.cancel_hours is not None:
            seconds = self._random.expovariate(1.0 / (self._model.cancel_hours * HOUR))
            job.endings.append(self._clock.after(seconds, lambda: self.end(job, JobState.CANCELLED)))

    def _info(self, job: Job) -> JobInfo:
        running = job.state is JobState.RUNNING and job.started is not None
        left = None
        if running and job.started is not None and job.seconds != float("inf"):
            left = max(0.0, job.started + job.seconds - self._clock.now)
        return JobInfo(job.id, job.name, job.state, job.held if running else (), "", left)


class SimulatedQuestions:
    """Queries whose answers take simulated time (`gfm_pipeline.engine.world.Questions`), one after the other.

    Parameters
    ----------
    clock, model
        Time, and assumptions about the batch system.
    seed
        Seed of its silence.
    """

    def __init__(self, clock: SimulatedClock, model: BatchModel, seed: int) -> None:
        self._clock, self._model = clock, model
        self._random = random.Random(f"answers {seed}")
        self._open: set[str] = set()
        self._come: list[QueryResult] = []
        self._busy_until = 0.0

    def submit(self, what: str, question: Callable[[], Any]) -> bool:
        """Start a query unless the same one is in progress; return whether it started."""
        if what in self._open:
            return False
        self._open.add(what)
        silent = self._random.random() < self._model.silent_share
        begin = max(self._clock.now, self._busy_until)
        self._busy_until = begin + (SILENT_SECONDS if silent else self._model.answer_seconds)
        self._clock.at(self._busy_until, lambda: self._answer(what, question, silent=silent))
        return True

    def results(self) -> list[QueryResult]:
        """Return the answers since the last call."""
        come, self._come = self._come, []
        return come

    def close(self) -> None:
        """Drop further answers."""
        self._open.clear()

    def _answer(self, what: str, question: Callable[[], Any], *, silent: bool) -> None:
        if what not in self._open:
            return
        self._open.discard(what)
        if silent:
            self._come.append(QueryResult(what, error=SchedulerTrouble("The simulated batch system does not answer.")))
        else:
            self._come.append(QueryResult(what, question()))
