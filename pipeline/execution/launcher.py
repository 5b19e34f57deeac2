"""Hands tasks to Parsl and hears when they end. Parsl launches; it stores nothing and decides nothing."""

from __future__ import annotations

import logging
import os
import queue
import shlex
import shutil
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gfm_pipeline.campaign.events import StageName
from gfm_pipeline.common.errors import IntegrityError, StorageError
from gfm_pipeline.common.faultpoints import FaultPoint, reach
from gfm_pipeline.common.processes import ProcessId, boot_id, identify, is_alive, kill, kill_group
from gfm_pipeline.common.publish import storage_errors, write_record
from gfm_pipeline.common.records import read_record
from gfm_pipeline.sites.schema import SiteModel

PROCESSES_FILE = "processes.json"
CLEANUP_SECONDS = 15.0
BROKEN_CLEANUP_SECONDS = 1.0  # Parsl's clean-up hangs on an interchange that died; it is left behind then


@dataclass(frozen=True)
class Job:
    """One attempt, ready to run: its stage, program, folder with a spec in it, and bounds in seconds."""

    stage: StageName
    program: str
    folder: Path
    deadline_seconds: float
    silence_seconds: float = 900.0
    grace_seconds: float = 30.0


@dataclass(frozen=True)
class JobEnd:
    """An attempt's future resolved; what happened is in the attempt's folder."""

    token: Any
    error: str | None  # Parsl's own trouble (lost worker or manager), not the program's


@dataclass(frozen=True)
class Processes:
    """Parsl's processes of this driver, so that whoever comes after its death can end them."""

    known: tuple[ProcessId, ...]


class Launcher(Protocol):
    """Runs jobs somewhere, a few at a time."""

    ended: queue.Queue[JobEnd]

    def submit(self, job: Job, token: Any) -> None:
        """Start ``job``; a `JobEnd` with ``token`` comes into ``ended`` when it is over."""

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
    """Parsl's `HighThroughputExecutor` on this machine; a context manager.

    Each job takes one worker. The driver never submits more than there are slots, so nothing ever waits
    inside Parsl. The interchange gets a parent-death signal, and the pool's process group is killed when the driver
    is gone: a killed driver leaves nothing running. The interchange has a session of its own, so that Ctrl-C on a
    terminal reaches the driver alone.
    """

    def __init__(self, site: SiteModel, run_dir: Path) -> None:
        self.site = site
        self.run_dir = run_dir
        self.ended: queue.Queue[JobEnd] = queue.Queue()
        self._kernel: Any = None
        self._executor: Any = None
        self._processes: tuple[ProcessId, ...] = ()
        self._vital: tuple[ProcessId, ...] = ()
        self._generation = 0

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
        from parsl.executors import HighThroughputExecutor
        from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
        from parsl.launchers import WrappedLauncher
        from parsl.providers import LocalProvider

        logging.getLogger("parsl").propagate = False  # Parsl writes its own parsl.log; nothing else of it is for people
        scripts = Path(sys.executable).parent  # found even when the environment is not activated
        pool = shlex.quote(str(scripts / "process_worker_pool.py"))
        guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        session = ["setsid"] if shutil.which("setsid") else []
        self._executor = HighThroughputExecutor(
            label=self.site.name,
            provider=LocalProvider(
                init_blocks=1, min_blocks=1, max_blocks=1, launcher=WrappedLauncher(_watch_driver())
            ),
            max_workers_per_node=self.site.resolved_slots(),
            cores_per_worker=1e-6,  # the number of workers is ours to say, not derived from cores
            prefetch_capacity=0,
            address=self.site.driver.address or "127.0.0.1",
            heartbeat_period=self.site.driver.heartbeat_seconds,
            heartbeat_threshold=4 * self.site.driver.heartbeat_seconds,
            encrypted=True,
            interchange_launch_cmd=[*guard, *session, str(scripts / "interchange.py")],
            launch_cmd=DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", pool, 1),
        )
        config = Config(
            executors=[self._executor],
            run_dir=str(self.run_dir),
            strategy="none",
            strategy_period=0.5,  # the pool starts in the first round after loading, not five seconds later
            retries=0,
            usage_tracking=0,
        )
        with storage_errors(self.run_dir):
            self._kernel = parsl.load(config)
        self._processes = self._vital = ()
        self._note_processes()
        reach(FaultPoint.LAUNCHER_STARTED)

    def _note_processes(self) -> None:
        """Note the interchange, the shell that waits for the pool of workers, and the group of that pool.

        Parsl starts its pool some time after itself.
        """
        blocks = list(self._executor.provider.resources.values())
        if len(self._vital) == 1 + len(blocks):
            return
        interchange = identify(self._executor.interchange_proc.pid)
        vital, groups = [interchange], []
        for block in blocks:
            vital.append(identify(block["remote_pid"]))
            with suppress(ProcessLookupError):
                # The shell that led the group is gone by now; its number is the group's as long as that lives.
                groups.append(ProcessId(interchange.host, boot_id(), os.getpgid(block["remote_pid"]), ""))
        self._vital = tuple(vital)
        self._processes = (*vital, *groups)
        with suppress(StorageError):  # met again, and reported, with the next task
            write_record(self.run_dir / PROCESSES_FILE, Processes(self._processes))

    def _unload(self, patience: float = CLEANUP_SECONDS) -> None:
        """Let Parsl clean up, then end what it has left."""
        import parsl

        with suppress(OSError):
            self._note_processes()
        thread = threading.Thread(target=self._kernel.cleanup, name="parsl-cleanup", daemon=True)
        thread.start()
        thread.join(patience)
        self.kill()
        parsl.clear()

    def kill(self) -> None:
        """End Parsl's processes at once."""
        for process in self._processes:
            kill_group(process)
            kill(process)

    def trouble(self) -> str | None:
        """Return why nothing submitted now would ever run: a dead interchange or pool, or Parsl gave up."""
        self._note_processes()
        if not is_alive(self._vital[0]):
            return "Parsl's interchange died"
        if not all(is_alive(process) for process in self._vital):
            return "Parsl's pool of workers died"
        if self._executor.bad_state_is_set:
            return f"Parsl gave up its executor ({str(self._executor.executor_exception).splitlines()[0]})"
        return None

    def restart(self) -> None:
        """Start Parsl anew."""
        self._generation += 1
        self.kill()
        self._unload(BROKEN_CLEANUP_SECONDS)
        self._load()

    def submit(self, job: Job, token: Any) -> None:
        """Start ``job`` as the Parsl app of its stage."""
        from gfm_pipeline.execution.apps import APPS

        environment: Mapping[str, str] = self.site.environment
        module = self.site.programs.get(job.program, f"gfm_pipeline.apps.{job.program}")
        bounds = (job.deadline_seconds, job.silence_seconds, job.grace_seconds)
        generation = self._generation
        future: Future[int] = APPS[job.stage](module, str(job.folder), dict(environment), bounds)

        def done(ended: Future[int]) -> None:
            if generation == self._generation:
                self.ended.put(JobEnd(token, _trouble(ended)))

        future.add_done_callback(done)


def _watch_driver() -> str:
    """Return shell text that kills the pool's process group once this process is gone.

    A pool leaves by itself when heartbeats stop, but not when the interchange dies between the pool's probe and its
    connection: its communicating thread ends then, and the rest waits for ever.
    """
    return f"( tail --pid={os.getpid()} -f /dev/null && kill -KILL 0 ) &" if shutil.which("tail") else ""


def _trouble(future: Future[int]) -> str | None:
    error = future.exception()
    return None if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
