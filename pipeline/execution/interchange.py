"""Parsl's interchange, in folders of any name, and tolerant of suspended processes.

    python -m gfm_pipeline.execution.interchange FILE       as of Parsl's interchange.py

ZeroMQ's Python binding finds the keys of clients with a pattern that contains the folder's name. In a folder with
``[``, ``*`` or ``?`` in its path it finds no key, and refuses every worker without a message. The interchange also
declares a manager dead by the time since its last heartbeat. This module excludes two times: that in which the
interchange or its driver was suspended (a batch system may suspend only one of them, since each has its own session),
and that in which the batch system has suspended a block. ``FILE`` names the suspended blocks.
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
    """Return the files that match ``pattern``, whose folder is taken literally."""
    path = Path(pattern)
    return glob.glob(str(Path(glob.escape(str(path.parent))) / path.name))  # noqa: PTH207 - as zmq wants it


def any_suspended(file: Path) -> bool:
    """Return whether ``file`` names a block; without a file, no block is suspended."""
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def main(file: Path) -> None:
    """Run Parsl's interchange.

    Raises
    ------
    ImportError
        If this version of pyzmq finds keys in another way.
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
