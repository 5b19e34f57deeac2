"""Time that this process lived through.

A process is stopped with its job (`scontrol suspend`) or its machine (a laptop's lid). The clock goes on meanwhile, or
jumps; no other process was silent for that time, and no task ran. So of each pause between two looks at the clock only
a few seconds count: what really lasted longer without a look is taken for a shorter time, which makes patience longer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")

MOST_SECONDS = 5.0  # that count of a pause between two looks
LEAST_SECONDS = 2.0  # of a pause, where a thread looks every half second; less than Parsl's shortest patience
TICK_SECONDS = 0.5


class Clock(Protocol):
    """What tells the time and waits: the machine's own clock, or that of a simulation."""

    def time(self) -> float:
        """Return Unix time (s); it may jump."""

    def monotonic(self) -> float:
        """Return the time (s) since some moment; it never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""

    def take(self, items: queue.Queue[T], seconds: float) -> T | None:
        """Return the next of ``items`` as soon as it is there; None when none came within ``seconds``."""


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
        """Return the next of ``items``, waiting for it at most so long; None: none came."""
        try:
            return items.get(timeout=seconds)
        except queue.Empty:
            return None


MACHINE = MachineClock()


class LivedTime:
    """Seconds of a clock, those left out in which this process stood still; rising, and never ahead of that clock.

    Parameters
    ----------
    most
        Seconds that count of a pause between two looks; the caller looks more often.
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
        """Return the time lived through: it begins with the clock's own."""
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
        """Return how long this process stood still since this was last asked (s); 0.0: it did not."""
        with self._lock:
            seconds, self._stood_still = self._stood_still, 0.0
            return seconds


def live_by_own_time(held: Callable[[], bool] | None = None) -> None:
    """Let ``time.time`` of this process leave out what it did not live through, or what ``held`` says to leave out.

    For Parsl's processes, which take each other for dead by the time since the last message: after a pause of both
    neither has missed any.
    """
    lived = LivedTime(LEAST_SECONDS, time.time)

    def tick() -> None:
        while True:
            time.sleep(TICK_SECONDS)
            lived.hold(held is not None and held())

    threading.Thread(target=tick, name="own time", daemon=True).start()
    time.time = lived
