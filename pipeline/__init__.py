"""gfm-pipeline: campaigns that train calibrated ensembles of graph foundation models."""

__version__ = "0.1.0"
