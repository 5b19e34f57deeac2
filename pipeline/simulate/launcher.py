"""Starts attempts on the simulated cluster, in the place of Parsl (`gfm_pipeline.execution.launcher.Launcher`)."""

from __future__ import annotations

import queue
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gfm_pipeline.core.contracts.attempts.launch import GroupFile
from gfm_pipeline.core.contracts.attempts.records import ENDED_STEM, EXIT_FILE, SPEC_FILE
from gfm_pipeline.core.contracts.task import RESULT_FILE
from gfm_pipeline.core.publish import write_json, write_record
from gfm_pipeline.core.records import read_record
from gfm_pipeline.engine.stages.table import stage_named
from gfm_pipeline.execution.launcher import LaunchEnd, TaskLaunch
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.simulate.attempts import RunningAttempts, SimulatedAttempt, SimulatedEnd
from gfm_pipeline.simulate.clock import SimulatedClock
from gfm_pipeline.simulate.cluster import Cluster
from gfm_pipeline.simulate.ledger import Ledger
from gfm_pipeline.simulate.program_runs import Programs
from gfm_pipeline.simulate.scenario import CostModel


@dataclass(frozen=True)
class PlacedTask:
    """An attempt with a recorded start: task, number, and names of its nodes."""

    task: str
    attempt: int
    nodes: tuple[str, ...]


class SimulatedLauncher:
    """Runs attempts with the programs of the scenario.

    Parameters
    ----------
    clock, cluster, ledger, attempts
        Time, nodes, node time, and running attempts.
    programs, cost
        Times of programs.
    placed
        The attempts with recorded starts, by their folders.
    held
        Whether the driver holds its nodes itself and starts their workers; False: blocks start their own.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        cluster: Cluster,
        ledger: Ledger,
        attempts: RunningAttempts,
        programs: Programs,
        cost: CostModel,
        placed: Mapping[str, PlacedTask],
        *,
        held: bool,
    ) -> None:
        self.ended: queue.Queue[LaunchEnd] = queue.Queue()
        self._clock, self._cluster, self._ledger, self._attempts = clock, cluster, ledger, attempts
        self._programs, self._cost, self._placed, self._held = programs, cost, placed, held
        self._ready_at: dict[str, float] = {}  # times by size, for started workers
        self._free: dict[SizeClass, deque[str]] = {}  # places on nodes that tasks share
        self._sharing: Counter[str] = Counter()  # tasks on each of them
        self._counted_at = -1  # changes of the cluster when the places were counted

    def serve(self, wanted: Collection[SizeClass]) -> None:
        """Start missing workers of the wanted sizes; before starting any, end those of all other sizes."""
        labels = {size.label: size for size in wanted}
        if not self._held or not labels.keys() - self._ready_at.keys():
            return
        now, cost = self._clock.now, self._cost
        fresh = {n: now + (cost.pool_seconds if s.whole else cost.workers_seconds) for n, s in labels.items()}
        self._ready_at = fresh | {n: when for n, when in self._ready_at.items() if n in labels}

    def ready(self, size: SizeClass) -> bool:
        """Return whether the workers of a size have started."""
        return not self._held or self._clock.now >= self._ready_at.get(size.label, float("inf"))

    def trouble(self) -> str | None:
        """Return None: Parsl never breaks down here."""
        return None

    def restart(self) -> None:
        """Do nothing: see `trouble`."""

    def kill(self) -> None:
        """Kill everything at once."""
        self._attempts.end_all()

    def submit(self, job: TaskLaunch, token: Any) -> None:
        """Start an attempt, or a shared launch."""
        if isinstance(token, Path):
            self._submit_shared(job, token)
            return
        folder = job.launch.folder
        nodes: Sequence[str] = self._placed[folder].nodes
        whole = bool(nodes)

        def over(attempt: SimulatedAttempt, outcome: SimulatedEnd) -> None:
            if not whole:
                self._give_back(job.size, attempt.nodes[0])
            self.ended.put(LaunchEnd(token, outcome.error, outcome.report))

        if not whole:
            nodes = [self._share(job.size)]
        weight = float(len(nodes)) if whole else 1.0 / job.size.per_node
        self._attempts.begin(self._attempt(job, folder, nodes, weight, over))

    def _attempt(
        self,
        job: TaskLaunch,
        folder: str,
        nodes: Sequence[str],
        weight: float,
        over: Callable[[SimulatedAttempt, SimulatedEnd], None],
    ) -> SimulatedAttempt:
        declared, placed, now = stage_named(job.stage), self._placed[folder], self._clock.now
        if declared is None:
            raise RuntimeError(f"{job.stage} is not a stage, though a task of it is started")
        program = declared.program_of(placed.task)
        spec = read_record(program.spec, Path(folder) / SPEC_FILE)
        run = self._programs.run_of(program, spec, placed.task, placed.attempt, self._cluster.slowness(nodes))
        begins = now + self._cost.hand_over_seconds
        return SimulatedAttempt(
            folder, nodes, weight, run, now, begins, job.size.whole, over, job.launch.deadline_seconds
        )

    # ---------------------------------------------------------------- nodes that tasks share

    def _share(self, size: SizeClass) -> str:
        """Take a place on a shared node, which only Parsl knows."""
        if self._counted_at != self._cluster.changes:
            self._counted_at = self._cluster.changes
            self._free.clear()
        if size not in self._free:
            nodes = self._cluster.up_nodes()
            self._free[size] = deque(n for k in range(size.per_node) for n in nodes if self._sharing[n] <= k)
        free = self._free[size]
        while self._cluster.is_down(free[0]):
            free.popleft()
        node = free.popleft()
        self._sharing[node] += 1
        return node

    def _give_back(self, size: SizeClass, node: str) -> None:
        self._sharing[node] -= 1
        if size in self._free:
            self._free[size].append(node)

    # ---------------------------------------------------------------- launches that tasks share

    def _submit_shared(self, job: TaskLaunch, folder: Path) -> None:
        """Start all tasks of a launch; the launch ends with its last task."""
        members = GroupFile.read(folder).members
        running = {member.folder for member in members}
        nodes = {node for member in members for node in self._placed[member.folder].nodes}
        weight = len(nodes) / len(members)

        def over(attempt: SimulatedAttempt, outcome: SimulatedEnd, rank: int) -> None:
            self._leave_files(attempt.folder, outcome)
            (folder / f"{ENDED_STEM}{rank}").touch()
            running.discard(attempt.folder)
            if not running:
                self._ledger.launch_over(float(len(nodes)))
                self.ended.put(LaunchEnd(folder, None))

        for member in members:
            end = partial(over, rank=member.first_rank)
            attempt = self._attempt(job, member.folder, self._placed[member.folder].nodes, weight, end)
            attempt.shares_launch = True
            self._attempts.begin(attempt)

    @staticmethod
    def _leave_files(folder: str, outcome: SimulatedEnd) -> None:
        """Write the files of a wrapper: the driver has no other report about the tasks of a launch."""
        if outcome.report is None:
            return
        write_record(Path(folder) / EXIT_FILE, outcome.report.exit, durable=False)
        if outcome.report.result is not None:
            write_json(Path(folder) / RESULT_FILE, outcome.report.result, durable=False)
