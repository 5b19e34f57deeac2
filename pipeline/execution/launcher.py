"""Hands tasks to Parsl and hears when they end. Parsl launches; it stores nothing and decides nothing."""

from __future__ import annotations

import logging
import queue
import shlex
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gfm_pipeline.campaign.events import StageName
from gfm_pipeline.common.publish import storage_errors
from gfm_pipeline.sites.schema import Site


@dataclass(frozen=True)
class Job:
    """One attempt, ready to run: its stage, program, and folder with a spec in it."""

    stage: StageName
    program: str
    folder: Path
    deadline_seconds: float


@dataclass(frozen=True)
class JobEnd:
    """An attempt's future resolved; what happened is in the attempt's folder."""

    token: Any
    error: str | None  # Parsl's own trouble (lost worker or manager), not the program's


class Launcher(Protocol):
    """Runs jobs somewhere, a few at a time."""

    ended: queue.Queue[JobEnd]

    def submit(self, job: Job, token: Any) -> None:
        """Start ``job``; a `JobEnd` with ``token`` comes into ``ended`` when it is over."""


class ParslLauncher:
    """Parsl's `HighThroughputExecutor` on this machine; a context manager.

    Each job takes one worker. The driver never submits more than there are slots, so nothing ever waits
    inside Parsl. The interchange gets a parent-death signal, and the pool leaves when its heartbeats stop:
    a killed driver leaves nothing running.
    """

    def __init__(self, site: Site, run_dir: Path) -> None:
        self.site = site
        self.run_dir = run_dir
        self.ended: queue.Queue[JobEnd] = queue.Queue()
        self._kernel: Any = None

    def __enter__(self) -> ParslLauncher:
        """Start Parsl."""
        import parsl
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
        from parsl.launchers import SimpleLauncher
        from parsl.providers import LocalProvider

        logging.getLogger("parsl").propagate = False  # Parsl writes its own parsl.log; nothing else of it is for people
        scripts = Path(sys.executable).parent  # found even when the environment is not activated
        pool = shlex.quote(str(scripts / "process_worker_pool.py"))
        guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        executor = HighThroughputExecutor(
            label=self.site.name,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1, launcher=SimpleLauncher()),
            max_workers_per_node=self.site.resolved_slots(),
            cores_per_worker=1e-6,  # the number of workers is ours to say, not derived from cores
            prefetch_capacity=0,
            address=self.site.address,
            heartbeat_period=self.site.heartbeat_seconds,
            heartbeat_threshold=4 * self.site.heartbeat_seconds,
            encrypted=True,
            interchange_launch_cmd=[*guard, str(scripts / "interchange.py")],
            launch_cmd=DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", pool, 1),
        )
        config = Config(
            executors=[executor],
            run_dir=str(self.run_dir),
            strategy="none",
            retries=0,
            usage_tracking=0,
        )
        with storage_errors(self.run_dir):
            self._kernel = parsl.load(config)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Stop Parsl and everything it started."""
        import parsl

        self._kernel.cleanup()
        parsl.clear()

    def submit(self, job: Job, token: Any) -> None:
        """Start ``job`` as the Parsl app of its stage."""
        from gfm_pipeline.execution.apps import APPS

        environment: Mapping[str, str] = self.site.environment
        module = self.site.programs.get(job.program, f"gfm_pipeline.apps.{job.program}")
        future: Future[int] = APPS[job.stage](module, str(job.folder), job.deadline_seconds, dict(environment))
        future.add_done_callback(lambda f: self.ended.put(JobEnd(token, _trouble(f))))


def _trouble(future: Future[int]) -> str | None:
    error = future.exception()
    return None if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
