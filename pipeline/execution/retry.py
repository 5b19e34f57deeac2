"""Queries of a batch system with waits between failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from gfm_pipeline.batch_systems.commands import SchedulerTrouble

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next query of a batch system after trouble: a pure value without a clock.

    Parameters
    ----------
    first_seconds, most_seconds
        The first and the longest pause; the pause doubles with each further failure.
    failures
        Number of consecutive failures.
    until
        Time (s, of the caller's clock) of the next allowed query.
    """

    first_seconds: float = 5.0
    most_seconds: float = 300.0
    failures: int = 0
    until: float = float("-inf")

    def after_trouble(self, now: float) -> Backoff:
        """Return the state after a further failure."""
        pause = min(self.most_seconds, self.first_seconds * 2.0 ** min(self.failures, 60))
        return replace(self, failures=self.failures + 1, until=now + pause)

    def after_success(self) -> Backoff:
        """Return the state after an answer."""
        return Backoff(self.first_seconds, self.most_seconds)

    def seconds_to_wait(self, now: float) -> float:
        """Return the time (s) until the next query; 0: query now."""
        return max(0.0, self.until - now)


def retrying(question: Callable[[], T], notify: Callable[[str], None], tries: int = 8) -> T:
    """Return the answer of a slow batch system; repeat the query after growing pauses.

    Raises
    ------
    SchedulerTrouble
        When ``tries`` queries (about ten minutes of waiting) gave no answer.
    """
    patience = Backoff()
    for left in range(tries, 0, -1):
        try:
            return question()
        except SchedulerTrouble as error:  # noqa: PERF203 - the loop is the waiting
            if left == 1:
                raise
            patience = patience.after_trouble(time.monotonic())
            wait = patience.seconds_to_wait(time.monotonic())
            notify(f"The batch system does not answer ({error.message.rstrip('.')}); asked again in {wait:.0f} s.")
            time.sleep(wait)
    raise AssertionError("unreachable")
