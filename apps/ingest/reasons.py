"""Reasons why records are not used: their names, and how often each occurs."""

from __future__ import annotations

from collections import Counter


def reason_name(reason: str) -> str:
    """Return the part of a reason that is common to all its records."""
    return reason.split(":", 1)[0]


def count_reason(counts: Counter[str], reason: str, most: int = 20) -> None:
    """Count a reason with its full text while there are few, and then by its name."""
    counts[reason if reason in counts or len(counts) < most else reason_name(reason)] += 1


def by_frequency(counts: Counter[str]) -> dict[str, int]:
    """Return reasons and how often each occurs, most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
