"""Parsl's worker pool, its workers forked from a process in which everything they need is imported already.

    python -m gfm_pipeline.apps.runtime.forked_pool ARGUMENTS       as of Parsl's process_worker_pool.py

Parsl starts every worker as an interpreter of its own, which imports Parsl and the task wrapper again: about a second
and a half of processor time and 33 MB each, and on a cluster as many readers of the file system where Python lies.
What is forked here shares those pages and starts in milliseconds (`benchmarks/driver.py`). Forking is safe because the
process forked from is `multiprocessing`'s fork server: it has one thread, and neither sockets nor queues of Parsl's.
"""

from __future__ import annotations

import multiprocessing
import resource
import runpy
import sys
from multiprocessing import context, util

from gfm_pipeline.core.clock import live_by_own_time

POOL = "parsl.executors.high_throughput.process_worker_pool"
IMPORTED = (POOL, "gfm_pipeline.apps.runtime.parsl_worker")  # before the first fork
FILES = 16384


class ForkedWorkers(context.SpawnContext):
    """What Parsl makes its workers and their queues with: all as before, but processes come from the fork server."""

    Process = context.ForkServerProcess  # type: ignore[assignment]


def main() -> None:
    """Be Parsl's worker pool.

    Raises
    ------
    ImportError
        If this Parsl starts its workers in another way.
    """
    import parsl.executors.high_throughput as home
    import parsl.multiprocessing as parsls

    if not hasattr(parsls, "SpawnContext"):
        raise ImportError("this Parsl starts its workers in another way than those from 2026.10 on that are known")
    # Before Python 3.10.9 any user of the node could connect to the fork server (CVE-2022-42919).
    util.abstract_sockets_supported = False  # type: ignore[misc]
    multiprocessing.set_forkserver_preload(list(IMPORTED))
    _allow_files()
    parsls.SpawnContext = ForkedWorkers()
    live_by_own_time()
    sys.argv[0] = f"{home.__path__[0]}/process_worker_pool.py"
    runpy.run_path(sys.argv[0], run_name="__main__")


def _allow_files() -> None:
    """Let this process and those it starts have open what a thousand workers need: a few files each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


if __name__ == "__main__":
    main()
