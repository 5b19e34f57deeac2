"""Campaigns below a folder: the state, size and newest event of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.errors import ConfigError, GFMError
from gfm_pipeline.engine.stages.base import Records
from gfm_pipeline.report.build import driver_standing, stage_views
from gfm_pipeline.report.tables.campaign import overall_state
from gfm_pipeline.report.view import StageStatus

DAMAGED = "damaged"
DEEPEST = 6  # depth of the search below the given folder


@dataclass(frozen=True)
class CampaignSummary:
    """A summary of one campaign.

    ``state`` is running, stopped, done, failed or damaged; ``stage`` is the current stage ('' when all are done);
    ``detail`` describes that stage, or the damage. Times are Unix times; None if unknown.
    """

    name: str
    path: str
    state: str
    stage: str
    detail: str
    bytes: int
    created: float | None
    last_event: float | None


def campaigns_below(folder: Path) -> tuple[CampaignSummary, ...]:
    """Return the campaigns in ``folder`` and the folders below it, the one with the newest event first.

    Raises
    ------
    ConfigError
        When there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}.", "Give the folder that holds your campaigns.")
    found = [_summary(CampaignPaths(place)) for place in _places(folder.resolve(), DEEPEST)]
    return tuple(sorted(found, key=lambda one: (-(one.last_event or 0.0), one.path)))


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below ``folder``; for links, their own size."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                total += (Path(place) / name).lstat().st_size
    return total


def _places(folder: Path, deeper: int) -> Iterator[Path]:
    """Yield the folders with a journal; do not search within a campaign, or behind links."""
    if CampaignPaths(folder).journal.is_file():
        yield folder
        return
    if not deeper:
        return
    with suppress(OSError):  # folders of other users
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _places(Path(entry.path), deeper - 1)


def _summary(paths: CampaignPaths) -> CampaignSummary:
    size = bytes_below(paths.root)
    try:
        state = load_state(paths.journal)
        alive, _ = driver_standing(paths, state)
        stages = stage_views(state, alive, Records())
    except (GFMError, OSError) as error:  # report the damaged one; list the others nevertheless
        return CampaignSummary(paths.root.name, str(paths.root), DAMAGED, "", str(error), size, None, None)
    at = next((stage for stage in stages if stage.status is not StageStatus.DONE), None)
    return CampaignSummary(
        name=state.created.name if state.created else paths.root.name,
        path=str(paths.root),
        state=overall_state(stages, alive),
        stage="" if at is None else at.name,
        detail="" if at is None else at.detail,
        bytes=size,
        created=state.created_at if state.created else None,
        last_event=state.last_event or None,
    )
