"""Events that interrupt a campaign: a restarted launcher, a silent scheduler, a suspended process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LauncherRestarted:
    """The driver restarted Parsl after a breakdown."""

    reason: str


@dataclass(frozen=True)
class SchedulerSilent:
    """The batch system does not answer, or answers again (without a reason); the campaign waits, then continues."""

    reason: str | None


DRIVER = "driver"


@dataclass(frozen=True)
class Suspended:
    """A batch job of the campaign, by name, or the driver was suspended for ``seconds``.

    None: it is suspended now. This time does not count: no task counts as silent, and no attempt is used up.
    """

    what: str
    seconds: float | None
