"""Campaigns by their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gfm_pipeline.campaign.journal import read
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.errors import ConfigError, IntegrityError

DATASET_FILE = "statistics.json"  # in the folder of every dataset

if TYPE_CHECKING:
    from gfm_pipeline.sites.schema import SiteModel


def existing(campaign: Path) -> CampaignPaths:
    """Return the paths of an existing campaign.

    Raises
    ------
    ConfigError
        When the folder contains no campaign.
    IntegrityError
        When its journal is missing or empty.
    """
    paths = CampaignPaths(campaign.resolve())
    if not paths.journal.exists() and (paths.root / "stages").is_dir():
        raise IntegrityError(
            f"{paths.journal} is missing, though {campaign} holds stages of a campaign.", "Restore it from a backup."
        )
    if not paths.journal.exists():
        hint = "Give the folder of a campaign, e.g. campaigns/NAME."
        if campaign.suffix in (".yaml", ".yml"):
            hint = "This is a workflow file; give the campaign's folder, by default campaigns/NAME beside it."
        raise ConfigError(f"{campaign} holds no campaign.", hint)
    if next(read(paths.journal), None) is None:
        raise IntegrityError(
            f"{paths.journal} holds no event.",
            "Nothing has happened there yet, or it was lost: restore it from a backup.",
        )
    return paths


def dataset_folders(place: Path) -> tuple[Path, ...]:
    """Return the datasets of a campaign's newest ingest, or ``place`` if it is the folder of a dataset; else ()."""
    if (place / DATASET_FILE).is_file():
        return (place.resolve(),)
    paths = CampaignPaths(place.resolve())
    if not paths.journal.is_file():
        return ()
    stage = load_state(paths.journal).stage("ingest")
    if stage is None:
        return ()
    folders = [paths.stage(stage.stage, stage.key).dataset(name) for name in stage.settings["sources"]]
    return tuple(folder for folder in folders if folder.is_dir())


def last_site(paths: CampaignPaths) -> SiteModel | None:
    """Return the resolved site of a campaign's last run; None if it is unknown."""
    from gfm_pipeline.sites.schema import SiteModel  # here: viewing a campaign does not need this slow import

    try:
        recorded = json.loads(paths.resolved.read_text(encoding="utf-8"))["site"]
        return SiteModel.model_validate(recorded)
    except (OSError, ValueError, KeyError):
        return None
