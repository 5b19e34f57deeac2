"""Questions to a batch system that somebody waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from gfm_pipeline.batch_systems.commands import SchedulerTrouble

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """How long to leave a batch system alone after trouble: a pure value, the clock is the caller's.

    Parameters
    ----------
    first_seconds, most_seconds
        The first pause; it doubles with each further trouble, up to the second.
    failures
        Troubles in a row.
    until
        Time (seconds, of the caller's clock) before which nothing should be asked.
    """

    first_seconds: float = 5.0
    most_seconds: float = 300.0
    failures: int = 0
    until: float = float("-inf")

    def after_trouble(self, now: float) -> Backoff:
        """Return the patience to have after one more trouble."""
        pause = min(self.most_seconds, self.first_seconds * 2.0 ** min(self.failures, 60))
        return replace(self, failures=self.failures + 1, until=now + pause)

    def after_success(self) -> Backoff:
        """Return the patience to have after an answer."""
        return Backoff(self.first_seconds, self.most_seconds)

    def seconds_to_wait(self, now: float) -> float:
        """Return how long to wait before asking again; 0 when it may be asked."""
        return max(0.0, self.until - now)


def retrying(question: Callable[[], T], notify: Callable[[str], None], tries: int = 8) -> T:
    """Return the answer of a batch system that may be slow, asking again after growing waits.

    Raises
    ------
    SchedulerTrouble
        When it has not answered after ``tries`` questions (about ten minutes of waiting).
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
