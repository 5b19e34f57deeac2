"""Old name of `gfm_pipeline.apps.runtime.program`, for programs written before it moved."""

from gfm_pipeline.apps.runtime.program import *  # noqa: F403 - all of it
