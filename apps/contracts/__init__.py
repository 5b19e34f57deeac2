"""Old name of `gfm_pipeline.core.contracts`, for programs of other packages."""
