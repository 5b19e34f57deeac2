"""Policies of a recorded campaign, which keeps them although the defaults of new campaigns changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfm_pipeline.campaign.journal import decode

_OPENED = b'"kind":"stage-opened"'


def recorded_settings(journal: Path, stage: str) -> dict[str, Any] | None:
    """Return the settings under which ``stage`` was opened last; None: it never was.

    Reads no other event, so that it costs little before a campaign of many is opened. What cannot be read is left to
    whoever opens the campaign, and says where.
    """
    found: dict[str, Any] | None = None
    try:
        with open(journal, "rb") as stream:
            for line in stream:
                if _OPENED in line and line.endswith(b"\n"):
                    opened = decode(line[:-1]).data
                    if opened.get("stage") == stage and isinstance(opened.get("settings"), dict):
                        found = opened["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return found
    return found
