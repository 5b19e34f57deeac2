"""Optimisers on one flat vector; `gfm_pipeline.core.contracts.optimisation.optimisers` declares them."""
