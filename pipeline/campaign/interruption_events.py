"""Events that interrupt a campaign: a launcher restarted, a scheduler that is silent, a process that stood still."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LauncherRestarted:
    """Parsl was started anew because it had broken down."""

    reason: str


@dataclass(frozen=True)
class SchedulerSilent:
    """The batch system does not answer, or answers again (no reason); the campaign waits, then continues."""

    reason: str | None


DRIVER = "driver"


@dataclass(frozen=True)
class Suspended:
    """A batch job of the campaign, by name, or the driver, stands still; ``seconds`` says for how long it did.

    None: it does now. That time counts for nothing: no task was silent, no attempt is used up.
    """

    what: str
    seconds: float | None
