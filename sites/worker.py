"""What Parsl tells its workers through their environment."""

from __future__ import annotations

import os


def worker_number() -> int:
    """Return the number of this Parsl worker on its node, from 0; 0 outside of Parsl."""
    return int(os.environ.get("PARSL_WORKER_RANK", "0"))
