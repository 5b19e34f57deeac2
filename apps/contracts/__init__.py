"""Old name of `gfm_pipeline.core.contracts`, for programs written before it moved; ours use the new one."""
