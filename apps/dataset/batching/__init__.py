"""From tables of structures to batches for models."""
