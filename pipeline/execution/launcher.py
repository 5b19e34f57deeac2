"""Hands tasks to Parsl and hears when they end. Parsl launches; it stores nothing and decides nothing."""

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
HERE = "here"  # the block of a driver that holds its nodes
SOME_SECONDS = 60.0  # after which a pool that some nodes have not reported to is used without them
COMMAND_SECONDS = 10  # for an interchange to answer; without a bound Parsl waits for a dead one for ever
BROKEN_CLEANUP_SECONDS = 1.0  # Parsl's clean-up hangs on an interchange that died; it is left behind then


@dataclass(frozen=True)
class TaskLaunch:
    """One attempt, ready to run.

    Parameters
    ----------
    stage
        It belongs to.
    size
        Decides the executor.
    launch
        For the task wrapper.
    ranks
        Rank files of a node's slots, for tasks that share nodes; empty: none, or it lies in the attempt's folder.
    """

    stage: str
    size: SizeClass
    launch: Launch
    ranks: tuple[RankFile, ...] = ()


@dataclass(frozen=True)
class LaunchEnd:
    """An attempt's future resolved; what happened is in the attempt's folder."""

    key: Any
    error: str | None  # Parsl's own trouble (lost worker or manager), not the program's
    report: AttemptReport | None = None  # what the wrapper told; None: it could not


@dataclass(frozen=True)
class Processes:
    """Parsl's processes of this driver, so that the next driver can end them after its death."""

    known: tuple[ProcessId, ...]


class Launcher(Protocol):
    """Runs jobs somewhere, as many at a time as there are places."""

    ended: queue.Queue[LaunchEnd]

    def serve(self, wanted: Collection[SizeClass]) -> None:
        """Make ready to run jobs of these sizes."""

    def ready(self, size: SizeClass) -> bool:
        """Return whether a job of ``size`` would start at once."""

    def submit(self, job: TaskLaunch, token: Any) -> None:
        """Start ``job``; a `LaunchEnd` with ``token`` comes into ``ended`` when it is over."""

    def trouble(self) -> str | None:
        """Return why nothing submitted now would ever run, or None when all is well."""

    def restart(self) -> None:
        """Start anew after trouble; of jobs submitted before nothing more is heard."""

    def kill(self) -> None:
        """End everything of its own at once."""


def recorded_processes(run_dir: Path) -> tuple[ProcessId, ...]:
    """Return the processes that the latest launcher in ``run_dir`` recorded."""
    try:
        return read_record(Processes, run_dir / PROCESSES_FILE).known
    except (FileNotFoundError, IntegrityError):
        return ()


class ParslLauncher:
    """Parsl with one executor a size class; a context manager.

    Each job takes one worker. The driver never submits more than there are places, so nothing ever waits
    inside Parsl. A killed driver leaves nothing running: see `build_executor` and `LocalPools`.

    Parameters
    ----------
    site
        The machine.
    run_dir
        Folder of Parsl's logs.
    sizes
        Of all tasks that will be submitted.
    nodes
        Names of the nodes this process holds, where it holds an allocation; () on a machine without batch system;
        None: nodes come later, as blocks (`commands`).
    nodes_per_block
        Nodes of a block, where ``nodes`` is None.
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
        self._ready: dict[str, float] = {}  # since when an executor is waited for; negative: it is ready

    def __enter__(self) -> ParslLauncher:
        """Start Parsl, after ending what a dead driver left of its own."""
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

        logging.getLogger("parsl").propagate = False  # Parsl writes its own parsl.log; nothing else of it is for people
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
        """Start the worker pools of sizes that are wanted now; where any has to be, end those that are not wanted.

        A node may have a worker for each of its cores: pools of all sizes at once would be several times too many.
        """
        if self.nodes is None:
            return  # blocks bring theirs
        up = self._pools.up()
        missing = {size.label for size in wanted} - up
        if not missing:
            return
        for label in up - {size.label for size in wanted}:
            self._hold(self._executors[label], lambda _: True)  # dead, it would look alive for some heartbeats
            self._pools.kill(label)
        self._ready.clear()
        node_file, nodes = self.run_dir / "pools" / "nodes", self._good(self.nodes)
        commands = [c for c in self.commands(HERE, nodes, node_file) if c.label in missing]
        self._pools.start(commands, nodes, node_file)
        self._note_processes()

    def _good(self, nodes: Sequence[str]) -> Sequence[str]:
        """Return the nodes that pools are started on: with a dead one among them, none would start at all."""
        return [n for n in nodes if n not in self._bad] or nodes

    def ready(self, size: SizeClass) -> bool:
        """Return whether a task of ``size`` would start at once: all nodes' pools reported, or some after a minute."""
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
        """Return the worker pools that make the nodes of a block ours."""
        return pool_commands(self.site, self._sized(), block, nodes, node_file)

    def _sized(self) -> list[tuple[SizeClass, Any]]:
        return [(size, self._executors[size.label]) for size in self.sizes]

    def _note_processes(self) -> None:
        """Note the interchanges and the groups of the pools for the driver that follows this one's death."""
        self._processes = (*self._interchanges, *self._pools.processes())
        with suppress(StorageError):  # met again, and reported, with the next task
            write_record(self.run_dir / PROCESSES_FILE, Processes(self._processes))

    def _unload(self, patience: float = CLEANUP_SECONDS) -> None:
        """Let Parsl clean up, then end what it has left."""
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
        """Return why nothing submitted now would ever run: a dead interchange or pool, or Parsl gave up."""
        if not all(is_alive(process) for process in self._interchanges):
            return "Parsl's interchange died"
        if self._pools.dead() is not None:
            return "Parsl's pool of workers died"
        for executor in self._executors.values():
            if executor.bad_state_is_set:
                return f"Parsl gave up its executor ({str(executor.executor_exception).splitlines()[0]})"
        return None

    def restart(self) -> None:
        """Start Parsl anew."""
        self._generation += 1
        self.kill()
        self._unload(BROKEN_CLEANUP_SECONDS)
        self._load()

    def hold_node(self, node: str) -> None:
        """Keep the worker pools of a bad node from getting further tasks, and start no more of them there."""
        self._bad.add(node)
        for size, executor in self._sized():
            if not size.whole:
                self._hold(executor, lambda where: where.partition("@")[2] == node)

    def excuse(self, blocks: Collection[str]) -> None:
        """Keep Parsl from taking the pools of these blocks for dead, whose jobs are suspended, and of no others."""
        with suppress(StorageError):  # met again, and reported, with the next task
            write_atomic(self._excused, "".join(f"{b}\n" for b in sorted(blocks)).encode(), durable=False)

    def hold_block(self, block: str) -> None:
        """Keep the worker pools of a block that ends from getting further tasks."""
        for executor in self._executors.values():
            self._hold(executor, lambda where: where.partition("@")[0] == block)

    def _hold(self, executor: Any, which: Callable[[str], bool]) -> None:
        """Let managers get no more tasks whose block and node are such."""
        from parsl.executors.high_throughput.errors import CommandClientTimeoutError

        for manager in self._managers(executor):
            if manager["active"] and which(manager["block_id"]):
                with suppress(CommandClientTimeoutError):  # an interchange that died is found by `trouble`
                    executor.command_client.run(["HOLD_MANAGER", manager["manager"]], timeout_s=COMMAND_SECONDS)

    def connected(self, block: str) -> bool:
        """Return whether pools of every size have reported from a block."""
        return all(self._connected(size, block) for size in self.sizes)

    def _connected(self, size: SizeClass, block: str) -> int:
        """Return on how many nodes of a block the worker pool of a size has reported."""
        managers = self._managers(self._executors[size.label])
        return sum(m["active"] and m["block_id"].partition("@")[0] == block for m in managers)

    @staticmethod
    def _managers(executor: Any) -> list[dict[str, Any]]:
        from parsl.executors.high_throughput.errors import CommandClientTimeoutError

        try:
            found: list[dict[str, Any]] = executor.command_client.run("MANAGERS", timeout_s=COMMAND_SECONDS)
        except CommandClientTimeoutError:
            return []  # an interchange that died is found by `trouble`
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
