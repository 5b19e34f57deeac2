"""Parsl's interchange, in folders of any name, and tolerant of suspended processes.

    python -m gfm_pipeline.execution.interchange FILE       as of Parsl's interchange.py

ZeroMQ's Python binding looks for the keys of clients with a pattern made of the folder's name. In a folder with ``[``,
``*`` or ``?`` in its path it finds none, every worker is refused, and nothing is said. And the interchange takes a
manager for dead by the time since its last heartbeat: here neither the time counts in which the interchange or its
driver stood still (a batch system may suspend one of them only, since each has a session of its own), nor that in which
the batch system has suspended a block. ``FILE`` names the suspended blocks.
"""

from __future__ import annotations

import glob
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

from gfm_pipeline.core.clock import live_by_own_time
from gfm_pipeline.core.processes import is_stopped

INTERCHANGE = "parsl.executors.high_throughput.interchange"


def in_folder(pattern: str) -> list[str]:
    """Return the files that match ``pattern``, whose folder stands for itself whatever its name."""
    path = Path(pattern)
    return glob.glob(str(Path(glob.escape(str(path.parent))) / path.name))  # noqa: PTH207 - as zmq wants it


def any_suspended(file: Path) -> bool:
    """Return whether ``file`` names a block; without a file none is suspended."""
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def main(file: Path) -> None:
    """Be Parsl's interchange.

    Raises
    ------
    ImportError
        If this pyzmq looks for keys in another way.
    """
    from zmq.auth import certs

    if not hasattr(certs, "glob"):
        raise ImportError("this pyzmq looks for keys in another way than those up to 27 that are known")
    certs.glob = SimpleNamespace(glob=in_folder)
    driver = os.getppid()
    live_by_own_time(lambda: any_suspended(file) or is_stopped(driver))
    runpy.run_module(INTERCHANGE, run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
