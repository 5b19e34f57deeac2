"""Files that another host writes: network file systems show them late.

A client of NFS keeps what it knows of a folder and of a file's times for up to a minute, that a file is absent
included. Opening a folder, or the file, makes it ask the server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

START_SECONDS = 60.0  # for what was written before a rank was started to be seen where it runs
POLL_SECONDS = 0.2  # between two looks at a file that is waited for


def is_there(path: Path) -> bool:
    """Return whether ``path`` exists; before it is said not to, its folder is asked anew."""
    if path.exists():
        return True
    with suppress(OSError), os.scandir(path.parent) as entries:
        next(entries, None)
        return path.exists()
    return False


def modified(path: Path) -> int | None:
    """Return when ``path`` was last changed (ns, of its server's clock), asked anew; None: it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def wait_for(paths: Iterable[Path], seconds: float) -> bool:
    """Wait until all of ``paths`` are there, at most so long; return whether they came."""
    give_up = time.monotonic() + seconds
    left = list(paths)
    while left := [path for path in left if not is_there(path)]:
        if time.monotonic() >= give_up:
            return False
        time.sleep(POLL_SECONDS)
    return True
