"""Old name of `gfm_pipeline.core.contracts.task`, for programs written before it moved."""

from gfm_pipeline.core.contracts.task import *  # noqa: F403 - all of it
