"""gfm-pipeline: campaigns that train calibrated ensembles of graph foundation models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gfm_pipeline.core.version import __version__

if TYPE_CHECKING:
    from gfm_pipeline.api.campaign import Campaign as Campaign
    from gfm_pipeline.api.training import evaluate_model as evaluate_model
    from gfm_pipeline.api.training import train_model as train_model

__all__ = ["Campaign", "__version__", "evaluate_model", "train_model"]

_HOMES = {"Campaign": "campaign", "evaluate_model": "training", "train_model": "training"}


def __getattr__(name: str) -> Any:
    """Import the Python API on access: the command line and programs on nodes do not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.api.{_HOMES[name]}"), name)
