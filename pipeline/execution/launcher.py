"""Submits tasks to Parsl and receives their ends. Parsl only launches; it stores and decides nothing."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.core.contracts.attempts.launch import RankFile
from gfm_pipeline.core.contracts.attempts.records import AttemptReport
from gfm_pipeline.core.errors import IntegrityError, StorageError
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.core.processes import ProcessId, identify, is_alive, kill, kill_group
from gfm_pipeline.core.publish import storage_errors, write_atomic, write_record
from gfm_pipeline.core.records import from_plain, read_record, to_plain
from gfm_pipeline.execution.executors import build_executor, resources
from gfm_pipeline.execution.pools import LocalPools, PoolCommand, pool_commands
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.schema import SiteModel

PROCESSES_FILE = "processes.json"
CLEANUP_SECONDS = 15.0
HERE = "here"  # block name for a driver that holds its nodes
SOME_SECONDS = 60.0  # then a pool is used without the nodes that have not reported
COMMAND_SECONDS = 10  # for an interchange to answer; by default, Parsl waits for a dead one forever
BROKEN_CLEANUP_SECONDS = 1.0  # Parsl's clean-up hangs if an interchange died; we abandon the clean-up then


@dataclass(frozen=True)
class TaskLaunch:
    """One attempt, ready to run.

    Parameters
    ----------
    stage
        Stage of the attempt.
    size
        Size class, which decides the executor.
    launch
        Launch for the task wrapper.
    ranks
        Rank files of a node's slots, for tasks that share nodes; empty: none, or the file is in the attempt's folder.
    """

    stage: str
    size: SizeClass
    launch: Launch
    ranks: tuple[RankFile, ...] = ()


@dataclass(frozen=True)
class LaunchEnd:
    """The resolved future of an attempt; the attempt's folder tells how it ended."""

    key: Any
    error: str | None  # an error of Parsl (lost worker or manager), not of the program
    report: AttemptReport | None = None  # the wrapper's report; None: it could not report


@dataclass(frozen=True)
class Processes:
    """Parsl's processes of this driver; if this driver dies, the next one ends them."""

    known: tuple[ProcessId, ...]


class Launcher(Protocol):
    """Runs jobs, at most one per place at a time."""

    ended: queue.Queue[LaunchEnd]

    def serve(self, wanted: Collection[SizeClass]) -> None:
        """Prepare for jobs of these sizes."""

    def ready(self, size: SizeClass) -> bool:
        """Return whether a job of ``size`` would start at once."""

    def submit(self, job: TaskLaunch, token: Any) -> None:
        """Start ``job``; when it is over, put a `LaunchEnd` with ``token`` into ``ended``."""

    def trouble(self) -> str | None:
        """Return why no submitted job would ever run, or None when all is well."""

    def restart(self) -> None:
        """Restart after trouble; earlier jobs send no ends any more."""

    def kill(self) -> None:
        """Kill all of its own processes at once."""


def recorded_processes(run_dir: Path) -> tuple[ProcessId, ...]:
    """Return the processes that the latest launcher in ``run_dir`` recorded."""
    try:
        return read_record(Processes, run_dir / PROCESSES_FILE).known
    except (FileNotFoundError, IntegrityError):
        return ()


class ParslLauncher:
    """Parsl with one executor per size class; a context manager.

    Each job takes one worker. The driver never submits more jobs than there are places, so no job ever waits
    inside Parsl. A killed driver leaves nothing running: see `build_executor` and `LocalPools`.

    Parameters
    ----------
    site
        The machine.
    run_dir
        Folder of Parsl's logs.
    sizes
        Size classes of all tasks.
    nodes
        Names of the nodes of this process's allocation; () on a machine without a batch system;
        None: nodes come later, as blocks (`commands`).
    nodes_per_block
        Nodes per block, if ``nodes`` is None.
    """

    def __init__(
        self,
        site: SiteModel,
        run_dir: Path,
        sizes: Sequence[SizeClass],
        nodes: Sequence[str] | None = (),
        nodes_per_block: int = 1,
    ) -> None:
        self.site = site
        self.run_dir = run_dir
        self._excused = run_dir / "suspended"  # names of blocks, for the interchanges
        self.sizes = tuple({size.label: size for size in sizes}.values())
        self.nodes = nodes
        self.nodes_per_block = nodes_per_block if nodes is None else max(1, len(nodes))
        self._bad: set[str] = set()
        self.ended: queue.Queue[LaunchEnd] = queue.Queue()
        self._kernel: Any = None
        self._executors: dict[str, Any] = {}  # by label
        self._pools = LocalPools(run_dir / "pools")
        self._interchanges: tuple[ProcessId, ...] = ()
        self._processes: tuple[ProcessId, ...] = ()
        self._generation = 0
        self._ready: dict[str, float] = {}  # start of the wait for an executor; negative: it is ready

    def __enter__(self) -> ParslLauncher:
        """Start Parsl, after ending the processes of a dead driver."""
        self._processes = recorded_processes(self.run_dir)
        self.kill()
        self._load()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Stop Parsl and everything it started."""
        self._unload()

    def _load(self) -> None:
        import parsl
        from parsl.config import Config

        logging.getLogger("parsl").propagate = False  # Parsl writes its own parsl.log; users need nothing more
        self._executors = {size.label: build_executor(self.site, size, self.nodes_per_block) for size in self.sizes}
        for executor in self._executors.values():
            executor.interchange_launch_cmd = [*executor.interchange_launch_cmd, str(self._excused)]
        config = Config(
            executors=list(self._executors.values()),
            run_dir=str(self.run_dir),
            strategy="none",
            retries=0,
            usage_tracking=0,
        )
        with storage_errors(self.run_dir):
            self._kernel = parsl.load(config)
        self._interchanges = tuple(identify(e.interchange_proc.pid) for e in self._executors.values())
        self._ready.clear()
        self._note_processes()
        reach(FaultPoint.LAUNCHER_STARTED)

    def serve(self, wanted: Collection[SizeClass]) -> None:
        """Start missing worker pools of the wanted sizes; before starting any, end those of other sizes.

        A node may have one worker per core, so pools of all sizes at once would have several times too many workers.
        """
        if self.nodes is None:
            return  # blocks start their own pools
        up = self._pools.up()
        missing = {size.label for size in wanted} - up
        if not missing:
            return
        for label in up - {size.label for size in wanted}:
            self._hold(self._executors[label], lambda _: True)  # a dead pool would look alive for some heartbeats
            self._pools.kill(label)
        self._ready.clear()
        node_file, nodes = self.run_dir / "pools" / "nodes", self._good(self.nodes)
        commands = [c for c in self.commands(HERE, nodes, node_file) if c.label in missing]
        self._pools.start(commands, nodes, node_file)
        self._note_processes()

    def _good(self, nodes: Sequence[str]) -> Sequence[str]:
        """Return the nodes to start pools on: with a dead node among them, no pool would start."""
        return [n for n in nodes if n not in self._bad] or nodes

    def ready(self, size: SizeClass) -> bool:
        """Return whether a task of ``size`` would start at once: all pools reported, or some after a minute."""
        if not self.nodes:
            return True
        now = time.monotonic()
        since = self._ready.setdefault(size.label, now)
        if since < 0:
            return True
        count = self._connected(size, HERE)
        if count >= (1 if size.whole else len(self._good(self.nodes))) or (count and now - since > SOME_SECONDS):
            self._ready[size.label] = -1.0
        return self._ready[size.label] < 0

    def commands(self, block: str, nodes: Sequence[str] | int, node_file: Path) -> list[PoolCommand]:
        """Return the commands of the worker pools on the nodes of a block."""
        return pool_commands(self.site, self._sized(), block, nodes, node_file)

    def _sized(self) -> list[tuple[SizeClass, Any]]:
        return [(size, self._executors[size.label]) for size in self.sizes]

    def _note_processes(self) -> None:
        """Record the interchanges and the pools' process groups for the next driver, in case this one dies."""
        self._processes = (*self._interchanges, *self._pools.processes())
        with suppress(StorageError):  # the next task meets and reports the same error
            write_record(self.run_dir / PROCESSES_FILE, Processes(self._processes))

    def _unload(self, patience: float = CLEANUP_SECONDS) -> None:
        """Let Parsl clean up, then end its remaining processes."""
        import parsl

        thread = threading.Thread(target=self._kernel.cleanup, name="parsl-cleanup", daemon=True)
        thread.start()
        self._pools.kill()
        thread.join(patience)
        self.kill()
        parsl.clear()

    def kill(self) -> None:
        """End Parsl's processes at once."""
        self._pools.kill()
        for process in self._processes:
            kill_group(process)
            kill(process)

    def trouble(self) -> str | None:
        """Return why no submitted job would ever run: a dead interchange or pool, or Parsl gave up."""
        if not all(is_alive(process) for process in self._interchanges):
            return "Parsl's interchange died"
        if self._pools.dead() is not None:
            return "Parsl's pool of workers died"
        for executor in self._executors.values():
            if executor.bad_state_is_set:
                return f"Parsl gave up its executor ({str(executor.executor_exception).splitlines()[0]})"
        return None

    def restart(self) -> None:
        """Restart Parsl."""
        self._generation += 1
        self.kill()
        self._unload(BROKEN_CLEANUP_SECONDS)
        self._load()

    def hold_node(self, node: str) -> None:
        """Give the worker pools of a bad node no further tasks, and start no new pools there."""
        self._bad.add(node)
        for size, executor in self._sized():
            if not size.whole:
                self._hold(executor, lambda where: where.partition("@")[2] == node)

    def excuse(self, blocks: Collection[str]) -> None:
        """Keep Parsl from declaring the pools of these blocks, and only these, dead: their jobs are suspended."""
        with suppress(StorageError):  # the next task meets and reports the same error
            write_atomic(self._excused, "".join(f"{b}\n" for b in sorted(blocks)).encode(), durable=False)

    def hold_block(self, block: str) -> None:
        """Give the worker pools of an ending block no further tasks."""
        for executor in self._executors.values():
            self._hold(executor, lambda where: where.partition("@")[0] == block)

    def _hold(self, executor: Any, which: Callable[[str], bool]) -> None:
        """Give no further tasks to managers whose name passes ``which``."""
        from parsl.executors.high_throughput.errors import CommandClientTimeoutError

        for manager in self._managers(executor):
            if manager["active"] and which(manager["block_id"]):
                with suppress(CommandClientTimeoutError):  # `trouble` finds a dead interchange
                    executor.command_client.run(["HOLD_MANAGER", manager["manager"]], timeout_s=COMMAND_SECONDS)

    def connected(self, block: str) -> bool:
        """Return whether pools of every size have reported from a block."""
        return all(self._connected(size, block) for size in self.sizes)

    def _connected(self, size: SizeClass, block: str) -> int:
        """Return the number of nodes of a block on which the worker pool of a size has reported."""
        managers = self._managers(self._executors[size.label])
        return sum(m["active"] and m["block_id"].partition("@")[0] == block for m in managers)

    @staticmethod
    def _managers(executor: Any) -> list[dict[str, Any]]:
        from parsl.executors.high_throughput.errors import CommandClientTimeoutError

        try:
            found: list[dict[str, Any]] = executor.command_client.run("MANAGERS", timeout_s=COMMAND_SECONDS)
        except CommandClientTimeoutError:
            return []  # `trouble` finds a dead interchange
        return found

    def submit(self, job: TaskLaunch, token: Any) -> None:
        """Start ``job`` as the Parsl app of its stage, on the executor of its size."""
        from gfm_pipeline.execution.apps import app

        generation = self._generation
        future: Future[dict[str, Any]] = app(job.stage, job.size.label)(
            to_plain(job.launch),
            tuple(to_plain(r) for r in job.ranks),
            parsl_resource_specification=resources(job.size),
        )

        def done(ended: Future[dict[str, Any]]) -> None:
            if generation == self._generation:
                error = _trouble(ended)
                report = from_plain(AttemptReport, ended.result()) if error is None else None
                self.ended.put(LaunchEnd(token, error, report))

        future.add_done_callback(done)


def _trouble(future: Future[dict[str, Any]]) -> str | None:
    error = future.exception()
    return None if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
