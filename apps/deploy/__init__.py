"""Finished ensembles in use: predictions of any structures, and one file that holds a model."""
