"""Properties of structures that are inputs of models."""
