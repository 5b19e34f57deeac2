"""Finds tasks without a heartbeat: pure bookkeeping of times, with an injected clock."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


CHECKS_PER_TIMEOUT = 8  # checks of each attempt within the time limit


class Watchdog(Generic[T]):
    """Records when the heartbeat of each watched attempt last changed.

    Attempts are checked in turns, since each check of a file on a parallel file system may take a millisecond.

    Only changes count, not ages, so jumping or differing clocks of file servers have no effect.

    Parameters
    ----------
    seconds
        Longest time without a change.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last_heartbeat: dict[T, tuple[int | None, float]] = {}
        self._next: dict[T, float] = {}
        self._turns: list[tuple[float, int, T]] = []  # a heap; with numbers, because tokens have no order
        self._number = 0

    def watch(self, token: T, now: float) -> None:
        """Begin to watch; the first check is due now."""
        self._schedule(token, now)

    def due(self, now: float) -> Iterator[T]:
        """Yield the attempts to check now, and again after a share of the time limit."""
        while self._turns and self._turns[0][0] <= now:
            when, _, token = heapq.heappop(self._turns)
            if self._next.get(token) == when:  # else it was forgotten, or is watched again
                self._schedule(token, now + self.seconds / CHECKS_PER_TIMEOUT)
                yield token

    def _schedule(self, token: T, when: float) -> None:
        self._next[token] = when
        self._number += 1
        heapq.heappush(self._turns, (when, self._number, token))

    def silent(self, token: T, stamp: int | None, now: float) -> bool:
        """Return whether the present ``stamp`` has not changed for too long; ``now`` is monotonic."""
        known = self._last_heartbeat.get(token)
        if known is None or known[0] != stamp:
            self._last_heartbeat[token] = (stamp, now)
            return False
        return now - known[1] > self.seconds

    def saw_heartbeat(self, token: T, now: float) -> None:
        """Treat a file as just changed, because its writer cannot change it."""
        known = self._last_heartbeat.get(token)
        if known is not None:
            self._last_heartbeat[token] = (known[0], now)

    def forget(self, token: T) -> None:
        """Stop watching."""
        self._last_heartbeat.pop(token, None)
        self._next.pop(token, None)
