"""Finds what has stopped showing life: pure bookkeeping of times, with the clock handed in."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path


class Watchdog:
    """Remembers when each watched file last changed.

    Changes are counted, not ages: a clock that jumps, or a file server whose clock differs, means nothing.

    Parameters
    ----------
    seconds
        Longest time without a change.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen: dict[Hashable, tuple[int | None, float]] = {}

    def silent(self, token: Hashable, file: Path, now: float) -> bool:
        """Look at ``file`` and return whether nothing about it has changed for too long; ``now`` is monotonic."""
        try:
            stamp: int | None = file.stat().st_mtime_ns
        except OSError:
            stamp = None
        known = self._seen.get(token)
        if known is None or known[0] != stamp:
            self._seen[token] = (stamp, now)
            return False
        return now - known[1] > self.seconds

    def forget(self, token: Hashable) -> None:
        """Stop watching."""
        self._seen.pop(token, None)
