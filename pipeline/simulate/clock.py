"""The clock and the events of a simulation: time passes only during waits."""

from __future__ import annotations

import heapq
import itertools
import queue
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Event:
    """A future action, which can be cancelled."""

    __slots__ = ("cancelled", "what", "when")

    def __init__(self, when: float, what: Callable[[], None]) -> None:
        self.when, self.what = when, what
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel the action."""
        self.cancelled = True


class SimulatedClock:
    """A clock that jumps to the next event during a wait.

    Parameters
    ----------
    start
        Unix time of the beginning.
    limit
        Seconds after which the simulation ends, even with future events.
    """

    def __init__(self, start: float, limit: float = float("inf")) -> None:
        self.now = 0.0
        self.events = 0  # number of past events
        self.before_waiting: Callable[[], None] | None = None  # called when the driver has nothing more to do
        self.measured: Callable[[], float] | None = None  # another clock whose time is added
        self._mark = 0.0
        self._start, self._limit = start, limit
        self._due: list[tuple[float, int, Event]] = []
        self._number = itertools.count()

    def time(self) -> float:
        """Return Unix time (s)."""
        return self._start + self.now

    def monotonic(self) -> float:
        """Return the seconds since the beginning."""
        return self.now

    def at(self, when: float, what: Callable[[], None]) -> Event:
        """Schedule ``what`` for a time, now at the earliest."""
        event = Event(max(when, self.now), what)
        heapq.heappush(self._due, (event.when, next(self._number), event))
        return event

    def after(self, seconds: float, what: Callable[[], None]) -> Event:
        """Schedule ``what`` after some time."""
        return self.at(self.now + seconds, what)

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass, with all events due in them."""
        until = self.now + seconds
        while self._happen(until):
            pass
        self._move(until)

    def take(self, items: queue.Queue[T], seconds: float) -> T | None:
        """Return the next of ``items`` as soon as it arrives; None when none arrives within ``seconds``."""
        if self.measured is not None:
            now, before = self.measured(), self._mark
            self._mark = now
            self.sleep(now - before if before else 0.0)
        if self.before_waiting is not None:
            self.before_waiting()
        until = self.now + seconds
        while items.empty():
            if not self._happen(until):
                self._move(until)
                return None
        return items.get_nowait()

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Process events until ``reached``; return False when there are no more events."""
        while not reached():
            if not self._happen(float("inf")):
                return False
        return True

    def _happen(self, until: float) -> bool:
        """Process the next event due by ``until``; return whether there was one."""
        while self._due and self._due[0][0] <= until:
            when, _, event = heapq.heappop(self._due)
            if event.cancelled:
                continue
            self._move(when)
            self.events += 1
            event.what()
            return True
        return False

    def _move(self, when: float) -> None:
        self.now = max(self.now, when)
        if self.now > self._limit:
            raise TimeIsOver


class TimeIsOver(Exception):
    """The simulated time is over."""
