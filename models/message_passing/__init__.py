"""The message passing algorithms, one module each; `gfm_pipeline.core.contracts.algorithms` describes them."""
