"""Old name of `gfm_pipeline.core.contracts.data`, for programs written before it moved."""

from gfm_pipeline.core.contracts.data import *  # noqa: F403 - all of it
