"""Starts attempts on the simulated cluster, in the place of Parsl (`gfm_pipeline.execution.launcher.Launcher`)."""

from __future__ import annotations

import queue
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gfm_pipeline.core.contracts.attempts.launch import GROUP_FILE, GroupFile, GroupMember
from gfm_pipeline.core.contracts.attempts.records import ENDED_STEM, EXIT_FILE, SPEC_FILE, ExitRecord
from gfm_pipeline.core.contracts.task import RESULT_FILE
from gfm_pipeline.core.publish import write_json, write_record
from gfm_pipeline.core.records import read_record
from gfm_pipeline.engine.stages.table import stage_named
from gfm_pipeline.execution.launcher import LaunchEnd, TaskLaunch
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.simulate.attempts import LAUNCH_FAILED, RunningAttempts, SimulatedAttempt, SimulatedEnd
from gfm_pipeline.simulate.clock import SimulatedClock
from gfm_pipeline.simulate.cluster import Cluster
from gfm_pipeline.simulate.ledger import Ledger
from gfm_pipeline.simulate.program_runs import Programs
from gfm_pipeline.simulate.scenario import CostModel

RANKS_LOOK_SECONDS = 6.0  # between two looks of ranks without a task at the list of tasks


@dataclass(frozen=True)
class PlacedTask:
    """An attempt with a recorded start: task, number, and names of its nodes."""

    task: str
    attempt: int
    nodes: tuple[str, ...]


@dataclass
class _RunningLaunch:
    """A launch that tasks share: its job, folder, nodes, nodes per task, tasks at a time, time of start, and state."""

    job: TaskLaunch
    folder: Path
    nodes: frozenset[str]
    weight: float
    places: int
    started: float
    running: dict[int, str] = field(default_factory=dict)  # folders of attempts, by their numbers in the launch
    latest: int = -1  # number of the latest task
    open: bool = True
    version: tuple[int, int] | None = None  # version of the list of tasks
    waits: bool = False  # whether a look at the list is due
    gone: bool = False


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
        self._launches: dict[Path, _RunningLaunch] = {}  # that tasks share
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
            if not whole and attempt.nodes:
                self._give_back(job.size, attempt.nodes[0])
            self.ended.put(LaunchEnd(token, outcome.error, outcome.report))

        if not whole:
            nodes = self._share(job.size)
        weight = float(len(nodes)) if whole else len(nodes) / job.size.per_node
        attempt = self._attempt(job, folder, nodes, weight, over)
        self._attempts.begin(attempt)
        if not nodes:  # the driver has yet to hear of it: Parsl gave the task to a worker that is gone
            self._attempts.node_failed(attempt)

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

    def _share(self, size: SizeClass) -> list[str]:
        """Take a place on a shared node, which only Parsl knows; return no node if all with a free place are down."""
        if self._counted_at != self._cluster.changes:
            self._counted_at = self._cluster.changes
            self._free.clear()
        if size not in self._free:
            nodes = self._cluster.up_nodes()
            self._free[size] = deque(n for k in range(size.per_node) for n in nodes if self._sharing[n] <= k)
        free = self._free[size]
        while free and self._cluster.is_down(free[0]):
            free.popleft()
        if not free:
            return []
        node = free.popleft()
        self._sharing[node] += 1
        return [node]

    def _give_back(self, size: SizeClass, node: str) -> None:
        self._sharing[node] -= 1
        if size in self._free:
            self._free[size].append(node)

    # ---------------------------------------------------------------- launches that tasks share

    def _submit_shared(self, job: TaskLaunch, folder: Path) -> None:
        """Start the tasks of a launch. Ranks whose task has ended wait for the next one, until the launch is closed."""
        members = GroupFile.read(folder).members
        nodes = frozenset(node for member in members for node in self._placed[member.folder].nodes)
        launch = _RunningLaunch(job, folder, nodes, len(nodes) / len(members), len(members), self._clock.now)
        self._launches[folder] = launch
        self._cluster.enter(tuple(nodes), str(folder), partial(self._node_failed, launch))
        for member in members:
            self._join(launch, member)

    def _join(self, launch: _RunningLaunch, member: GroupMember, *, later: bool = False) -> None:
        """Start a task of a launch; ``later``: in the place of an ended one."""
        end = partial(self._left, launch, member)
        placed = self._placed[member.folder].nodes
        attempt = self._attempt(launch.job, member.folder, placed, launch.weight, end)
        attempt.shares_launch, attempt.fills_place = True, later
        attempt.launch_lost = partial(self._launch_failed, launch)
        launch.running[member.number] = member.folder
        launch.latest = max(launch.latest, member.number)
        self._attempts.begin(attempt)

    def _left(
        self, launch: _RunningLaunch, member: GroupMember, attempt: SimulatedAttempt, outcome: SimulatedEnd
    ) -> None:
        """Record the end of a task as its ranks do, which then look for another one."""
        self._leave_files(attempt.folder, outcome)
        (launch.folder / f"{ENDED_STEM}{member.number}").touch()
        launch.running.pop(member.number, None)
        if not launch.waits:
            launch.waits = True
            self._clock.after(0.0 if not launch.running else RANKS_LOOK_SECONDS, partial(self._look, launch))

    def _look(self, launch: _RunningLaunch) -> None:
        """Read the list of tasks for the ranks without a task."""
        launch.waits = False
        if launch.gone:
            return
        file = (launch.folder / GROUP_FILE).stat()
        version = file.st_ino, file.st_mtime_ns
        if version != launch.version:
            launch.version, group = version, GroupFile.read(launch.folder)
            launch.open, known = group.open, launch.latest
            for member in group.members:
                if member.number > known:
                    self._join(launch, member, later=True)
        if launch.open and len(launch.running) < launch.places:
            launch.waits = True
            self._clock.after(RANKS_LOOK_SECONDS, partial(self._look, launch))
        elif not launch.running:
            self._over(launch)

    def _over(self, launch: _RunningLaunch) -> None:
        """Free the nodes of a launch without tasks, and report its end."""
        launch.gone = True
        del self._launches[launch.folder]
        self._cluster.leave(tuple(launch.nodes), str(launch.folder))
        self._ledger.launch_over(float(len(launch.nodes)))
        self.ended.put(LaunchEnd(launch.folder, None))

    def _node_failed(self, launch: _RunningLaunch) -> None:
        """Let the batch system find a failed node of a launch."""
        self._clock.after(self._attempts.detect_seconds, partial(self._launch_failed, launch))

    def _launch_failed(self, launch: _RunningLaunch) -> None:
        """End a launch with all of its tasks: a batch system ends a step of which a node has failed."""
        if launch.gone:
            return
        for folder in launch.running.values():
            self._attempts.end(Path(folder))
        record = ExitRecord(LAUNCH_FAILED, False, self._clock.now - launch.started)
        write_record(launch.folder / EXIT_FILE, record, durable=False)
        self._over(launch)

    def nodes_lost(self, nodes: Sequence[str] | None = None) -> None:
        """Forget the shared launches on nodes of an ended job, whose tasks were lost before; None: all launches."""
        gone = None if nodes is None else set(nodes)
        for launch in list(self._launches.values()):
            if gone is None or not gone.isdisjoint(launch.nodes):
                launch.gone = True
                del self._launches[launch.folder]
                self._cluster.leave(tuple(launch.nodes), str(launch.folder))
                self._ledger.launch_lost(float(len(launch.nodes)))

    @staticmethod
    def _leave_files(folder: str, outcome: SimulatedEnd) -> None:
        """Write the files of a wrapper: the driver has no other report about the tasks of a launch."""
        if outcome.report is None:
            return
        write_record(Path(folder) / EXIT_FILE, outcome.report.exit, durable=False)
        if outcome.report.result is not None:
            write_json(Path(folder) / RESULT_FILE, outcome.report.result, durable=False)
