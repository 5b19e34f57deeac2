"""Runs the command line on a disk that begins to refuse: ``refusing_disk.py ERRNO AFTER ARGUMENTS...``.

The driver's AFTER-th fsync, and every one after it, raises an OSError with that number, as a disk does that is full,
over quota or failing.
"""

from __future__ import annotations

import os
import sys
from itertools import count

from gfm_pipeline.cli.main import main

number, after = int(sys.argv[1]), int(sys.argv[2])
calls, sync = count(1), os.fsync


def fsync(descriptor: int) -> None:
    if next(calls) >= after:
        raise OSError(number, os.strerror(number))
    sync(descriptor)


os.fsync = fsync
main(sys.argv[3:])
