"""The batch system of a site."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from gfm_pipeline.execution.scheduler import Patience, Scheduler, SchedulerTrouble
from gfm_pipeline.execution.slurm import Slurm
from gfm_pipeline.sites.schema import Scheduler as Kind
from gfm_pipeline.sites.schema import SiteModel

T = TypeVar("T")


def batch_system(site: SiteModel, environment: Mapping[str, str]) -> Scheduler | None:
    """Return the batch system of a site, or None where it has none; ``environment`` is that of this process."""
    seconds = site.scheduler.command_timeout_seconds
    match site.scheduler.kind:
        case Kind.SLURM:
            return Slurm(environment, seconds)
        case Kind.PBS:
            from gfm_pipeline.execution.pbs import PBS

            return PBS(environment, seconds)
    return None


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
        except SchedulerTrouble as error:
            if left == 1:
                raise
            patience = patience.after_trouble(time.monotonic())
            wait = patience.seconds_to_wait(time.monotonic())
            say(f"The batch system does not answer ({error.message.rstrip('.')}); asked again in {wait:.0f} s.")
            time.sleep(wait)
    raise AssertionError("unreachable")
