"""Old name of `gfm_pipeline.core.contracts.data`, for programs written before it moved."""

from gfm_pipeline.core.contracts.data import *  # noqa: F403 - all of it
from gfm_pipeline.core.contracts.dataset_statistics import *  # noqa: F403 - all of it
