"""The folders of results that a stage takes over from another one: links, since each lies where it was made."""

from __future__ import annotations

import os
from pathlib import Path

from gfm_pipeline.campaign.events import StageOpened
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.publish import storage_errors
from gfm_pipeline.engine.stages.table import stage_named


def link_taken(paths: CampaignPaths, opened: StageOpened) -> None:
    """Link what ``opened`` takes over into its own folder; what is linked already stays.

    Raises
    ------
    StorageError
        When the disk refuses.
    """
    declared = stage_named(opened.stage)
    if opened.taken is None or declared is None:
        return
    theirs, mine = (paths.stage(opened.stage, key) for key in (opened.taken.origin, opened.key))
    for task in opened.taken.tasks:
        _link(theirs.task(task), mine.task(task))
        _link(declared.folder_of(theirs, task), declared.folder_of(mine, task))


def _link(target: Path, link: Path) -> None:
    if not target.exists() or os.path.lexists(link):
        return
    with storage_errors(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()), target_is_directory=True)
