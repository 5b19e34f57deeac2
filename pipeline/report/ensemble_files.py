"""Files of a campaign's published ensemble that the report shows; each is checked against the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.contracts.accuracy.split_errors import SPLIT_ERRORS_FILE, EnsembleErrors
from gfm_pipeline.core.contracts.evaluation import FIGURES_FILE
from gfm_pipeline.core.publish import verify
from gfm_pipeline.core.records import read_record
from gfm_pipeline.engine.stages import calibrate

if TYPE_CHECKING:
    import numpy as np


def load_evaluation(campaign: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of the parity and calibration figures, or None while there are none."""
    folder = _ensemble(campaign)
    if folder is None:
        return None
    verify(folder)
    import numpy as np  # here: `status` does not need this slow import

    with np.load(folder / FIGURES_FILE, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def load_split_errors(campaign: Path) -> EnsembleErrors | None:
    """Return the errors of groups of the test split; None without an ensemble, or for one of an earlier version.

    Raises
    ------
    IntegrityError
        When the journal or the ensemble is damaged.
    """
    folder = _ensemble(campaign)
    if folder is None or SPLIT_ERRORS_FILE not in verify(folder).files:
        return None
    return read_record(EnsembleErrors, folder / SPLIT_ERRORS_FILE)


def _ensemble(campaign: Path) -> Path | None:
    paths = CampaignPaths(campaign.resolve())
    stage = load_state(paths.journal).stage(calibrate.NAME)
    return None if stage is None or stage.outputs is None else paths.stage(stage.stage, stage.key).ensemble
