"""Old name of `gfm_pipeline.core.contracts.training`, for programs written before it moved."""

from gfm_pipeline.core.contracts.training import *  # noqa: F403 - all of it
from gfm_pipeline.core.contracts.training_result import *  # noqa: F403 - all of it
