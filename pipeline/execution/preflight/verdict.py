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
        What was looked at.
    outcome
        Whether it is as it should be.
    measured
        What was seen, or why nothing was.
    fix
        Of a failure: the key of the site to set, or the command to run.
    """

    check: str
    outcome: CheckStatus
    measured: str
    fix: str = ""


def passed(check: str, measured: str) -> CheckResult:
    """Return that all is well."""
    return CheckResult(check, CheckStatus.PASS, measured)


def failed(check: str, measured: str, fix: str) -> CheckResult:
    """Return what is not as it should be, and what to do."""
    return CheckResult(check, CheckStatus.FAIL, measured, fix)


def skipped(check: str, reason: str) -> CheckResult:
    """Return why nothing was looked at."""
    return CheckResult(check, CheckStatus.SKIPPED, reason)
