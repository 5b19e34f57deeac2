"""Parsl's worker pool with workers forked from a process that has already imported their modules.

    python -m gfm_pipeline.apps.runtime.forked_pool ARGUMENTS       as of Parsl's process_worker_pool.py

Parsl starts every worker as a separate interpreter, which imports Parsl and the task wrapper again. Each takes about a
second and a half of processor time and 33 MB, and on a cluster each reads Python's file system. Workers forked here
share those pages and start in milliseconds (`benchmarks/driver.py`). Forking is safe because the parent is
`multiprocessing`'s fork server, which has one thread and none of Parsl's sockets or queues.
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
    """Parsl's `multiprocessing` context with processes from the fork server; the rest is unchanged."""

    Process = context.ForkServerProcess  # type: ignore[assignment]


def main() -> None:
    """Run Parsl's worker pool.

    Raises
    ------
    ImportError
        When this version of Parsl starts its workers in another way.
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
    """Raise the limit of open files of this process and its children for a thousand workers, a few files each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


if __name__ == "__main__":
    main()
