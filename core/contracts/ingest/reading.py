"""Bounds within which foreign files are read."""

from __future__ import annotations

from dataclasses import dataclass

READING_GB = 4.0
RECORD_SECONDS = 300.0


@dataclass(frozen=True)
class ReadLimits:
    """What reading may take before it is ended, and what was read then named as unusable.

    Parameters
    ----------
    memory_gb
        Memory of the process that reads, beside what it begins with (GB).
    seconds
        Time without a further record.
    """

    memory_gb: float = READING_GB
    seconds: float = RECORD_SECONDS
