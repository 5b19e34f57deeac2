"""The verdict of one check."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.strenum import StrEnum


class CheckStatus(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class CheckResult:
    """One line of the table.

    Parameters
    ----------
    check
        Subject of the check.
    outcome
        Whether the machine agrees with the site file.
    measured
        The observation, or why there is none.
    fix
        For a failure: the key of the site to set, or the command to run.
    """

    check: str
    outcome: CheckStatus
    measured: str
    fix: str = ""


def passed(check: str, measured: str) -> CheckResult:
    """Return the result of a passed check."""
    return CheckResult(check, CheckStatus.PASS, measured)


def failed(check: str, measured: str, fix: str) -> CheckResult:
    """Return the result of a failed check, with its fix."""
    return CheckResult(check, CheckStatus.FAIL, measured, fix)


def skipped(check: str, reason: str) -> CheckResult:
    """Return the result of a skipped check, with the reason."""
    return CheckResult(check, CheckStatus.SKIPPED, reason)
