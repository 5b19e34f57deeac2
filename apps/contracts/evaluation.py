"""Old name of `gfm_pipeline.core.contracts.evaluation`, for programs written before it moved."""

from gfm_pipeline.core.contracts.evaluation import *  # noqa: F403 - all of it
