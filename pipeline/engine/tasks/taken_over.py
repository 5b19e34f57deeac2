"""Folders of results that a stage reuses from another stage: links, because results never move."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

from gfm_pipeline.campaign.events import StageOpened
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.publish import storage_errors
from gfm_pipeline.engine.stages.table import stage_named

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # errors of file systems without symbolic links


def link_taken(paths: CampaignPaths, opened: StageOpened) -> StageOpened:
    """Link the results that ``opened`` takes over into its own folder, keep existing links, and return ``opened``.

    On a file system without symbolic links, the stage takes over nothing and repeats all tasks.

    Raises
    ------
    StorageError
        When the disk refuses.
    """
    declared = stage_named(opened.stage)
    if opened.taken is None or declared is None:
        return opened
    theirs, mine = (paths.stage(opened.stage, key) for key in (opened.taken.origin, opened.key))
    try:
        for task in opened.taken.tasks:
            _link(theirs.task(task), mine.task(task))
            _link(declared.folder_of(theirs, task), declared.folder_of(mine, task))
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return replace(opened, taken=None)
    return opened


def _link(target: Path, link: Path) -> None:
    if not target.exists() or os.path.lexists(link):
        return
    with storage_errors(link):
        link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()), target_is_directory=True)
