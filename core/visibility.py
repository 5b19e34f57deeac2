"""Files that another host writes: network file systems show them late.

An NFS client caches folder contents and file times for up to a minute, including the absence of a file. Opening the
folder or the file makes the client ask the server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

START_SECONDS = 60.0  # until a rank sees files written before its start
POLL_SECONDS = 0.2  # between two checks of an awaited file


def is_there(path: Path) -> bool:
    """Return whether ``path`` exists; reopens its folder before returning False."""
    if path.exists():
        return True
    with suppress(OSError), os.scandir(path.parent) as entries:
        next(entries, None)
        return path.exists()
    return False


def modified(path: Path) -> int | None:
    """Return when ``path`` last changed (ns, by its server's clock), without the cache; None: it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def wait_for(paths: Iterable[Path], seconds: float) -> bool:
    """Wait until all of ``paths`` exist or the time is over; return whether they exist."""
    give_up = time.monotonic() + seconds
    left = list(paths)
    while left := [path for path in left if not is_there(path)]:
        if time.monotonic() >= give_up:
            return False
        time.sleep(POLL_SECONDS)
    return True
