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
    found = [_summary(CampaignPaths(place)) for place in _places(str(folder.resolve()), DEEPEST)]
    return tuple(sorted(found, key=lambda one: (-(one.last_event or 0.0), one.path)))


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below ``folder``; for links, their own size."""
    total, open_folders = 0, [str(folder)]  # strings, not paths: a campaign has thousands of files
    while open_folders:
        for entry in _entries(open_folders.pop()):
            with suppress(OSError):  # deleted meanwhile
                if entry.is_dir(follow_symlinks=False):
                    open_folders.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name; none if it was deleted, or is another user's."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _places(folder: str, deeper: int) -> Iterator[Path]:
    """Yield the folders with a journal; do not search within a campaign, behind links, or in views of the kernel."""
    entries = _entries(folder)
    journal = CampaignPaths(Path(folder)).journal.name
    if any(entry.name == journal and entry.is_file() for entry in entries):
        yield Path(folder)
        return
    for entry in entries if deeper else ():
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False) and not _is_view(entry.path):
            yield from _places(entry.path, deeper - 1)


def _is_view(folder: str) -> bool:
    """Return whether a folder is the root of a file system without storage, as /proc and /sys are."""
    try:
        return os.path.ismount(folder) and not os.statvfs(folder).f_blocks
    except OSError:
        return True


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
