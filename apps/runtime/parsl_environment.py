"""Environment variables that Parsl sets for its workers."""

from __future__ import annotations

import os


def node_name() -> str:
    """Return the batch system's name of this node, or ''."""
    # the batch system tells a process its node in the environment only
    return os.environ.get("SLURMD_NODENAME", "")


def worker_number() -> int:
    """Return the number of this Parsl worker on its node, from 0; 0 outside of Parsl."""
    # Parsl tells a worker its rank in the environment only
    return int(os.environ.get("PARSL_WORKER_RANK", "0"))
