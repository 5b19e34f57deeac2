"""Policies of a recorded campaign: they stay when the defaults of new campaigns change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfm_pipeline.campaign.journal import decode

_OPENED = b'"kind":"stage-opened"'


def recorded_settings(journal: Path, stage: str) -> dict[str, Any] | None:
    """Return the settings of ``stage`` when it was last opened; None: never.

    The function decodes no other event, so it costs little before a campaign is opened. It ignores a damaged journal:
    opening the campaign reports the fault and its place.
    """
    found: dict[str, Any] | None = None
    if not journal.is_file():  # a pipe would be waited for
        return None
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
