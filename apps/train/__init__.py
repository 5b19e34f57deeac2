"""Training one model: ``python -m gfm_pipeline.apps.train SPEC.json``."""
