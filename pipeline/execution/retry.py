"""Questions to a batch system that somebody waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from gfm_pipeline.execution.scheduler import Patience, SchedulerTrouble

T = TypeVar("T")


def patiently(question: Callable[[], T], say: Callable[[str], None], tries: int = 8) -> T:
    """Return the answer of a batch system that may be slow, asking again after growing waits.

    Raises
    ------
    SchedulerTrouble
        When it has not answered after ``tries`` questions (about ten minutes of waiting).
    """
    patience = Patience()
    for left in range(tries, 0, -1):
        try:
            return question()
        except SchedulerTrouble as error:  # noqa: PERF203 - the loop is the waiting
            if left == 1:
                raise
            patience = patience.after_trouble(time.monotonic())
            wait = patience.seconds_to_wait(time.monotonic())
            say(f"The batch system does not answer ({error.message.rstrip('.')}); asked again in {wait:.0f} s.")
            time.sleep(wait)
    raise AssertionError("unreachable")
