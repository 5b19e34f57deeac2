"""Time during which this process was running.

A process stops with its job (`scontrol suspend`) or its machine (a laptop's lid). Meanwhile the clock continues or
jumps, no other process is silent, and no task runs. So only a few seconds of each pause between two readings of the
clock count. A real interval without a reading is also shortened, which makes timeouts longer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")

MOST_SECONDS = 5.0  # counted of a pause between two readings
LEAST_SECONDS = 2.0  # of a pause, for a thread that reads every half second; less than Parsl's shortest timeout
TICK_SECONDS = 0.5


class Clock(Protocol):
    """Source of the time and of waits: the clock of the machine or of a simulation."""

    def time(self) -> float:
        """Return Unix time (s); it may jump."""

    def monotonic(self) -> float:
        """Return the time (s) since some moment; it never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""

    def take(self, items: queue.Queue[T], seconds: float) -> T | None:
        """Return the next of ``items`` as soon as it arrives; None when none arrives within ``seconds``."""


class MachineClock:
    """The clock of the machine."""

    def time(self) -> float:
        """Return Unix time (s)."""
        return time.time()

    def monotonic(self) -> float:
        """Return the time (s) since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        time.sleep(seconds)

    def take(self, items: queue.Queue[T], seconds: float) -> T | None:
        """Return the next of ``items``; None when none arrives within ``seconds``."""
        try:
            return items.get(timeout=seconds)
        except queue.Empty:
            return None


MACHINE = MachineClock()


class LivedTime:
    """Seconds of a clock without those in which this process stood still; rising, and never ahead of that clock.

    Parameters
    ----------
    most
        Largest number of seconds counted per pause between two readings; the caller reads more often.
    clock
        The clock.
    """

    def __init__(self, most: float = MOST_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._last = self._lived = clock()
        self._stood_still = 0.0
        self._held = False
        self._lock = threading.Lock()

    def hold(self, held: bool) -> None:
        """Let no time pass while ``held``."""
        self()
        self._held = held

    def __call__(self) -> float:
        """Return the time without standstills; its first value is the clock's."""
        with self._lock:
            now = self._clock()
            gap = max(0.0, now - self._last)
            self._last = now
            if not self._held:
                self._lived += min(gap, self._most)
            if gap > self._most:
                self._stood_still += gap
            return self._lived

    def stood_still(self) -> float:
        """Return how long this process stood still since the last call (s); 0.0: it did not."""
        with self._lock:
            seconds, self._stood_still = self._stood_still, 0.0
            return seconds


def live_by_own_time(held: Callable[[], bool] | None = None) -> None:
    """Make ``time.time`` of this process leave out its standstills and the time for which ``held`` is true.

    Parsl's processes declare each other dead by the time since the last message. After a pause of both, neither has
    missed a message.
    """
    lived = LivedTime(LEAST_SECONDS, time.time)

    def tick() -> None:
        while True:
            time.sleep(TICK_SECONDS)
            lived.hold(held is not None and held())

    threading.Thread(target=tick, name="own time", daemon=True).start()
    time.time = lived
