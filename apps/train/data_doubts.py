"""Warnings about data that a model is not designed for, as sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gfm_pipeline.apps.dataset import GraphTable
from gfm_pipeline.core.contracts.training import ModelSettings
from gfm_pipeline.models.conditioning import NEUTRAL


def attribute_ranges(table: GraphTable) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest known value of each attribute of structures."""
    known = {name: values[~np.isnan(values)] for name, values in table.attributes.items()}
    return {name: (float(values.min()), float(values.max())) for name, values in known.items() if len(values)}


def unstated_attributes(table: GraphTable) -> tuple[str, ...]:
    """Return the attributes that some structures do not state."""
    return tuple(name for name, values in table.attributes.items() if np.isnan(values).any())


def doubts(dataset: str, table: GraphTable, model: ModelSettings) -> Iterator[str]:
    """Yield warnings, e.g. for each attribute that varies between structures and is no input of the model."""
    unstated = unstated_attributes(table)
    for name, (low, high) in attribute_ranges(table).items():
        if name in model.condition_on.attributes or (low == high and (name not in unstated or low == NEUTRAL[name])):
            continue
        held = f"{low:g} to {high:g}" if low != high else f"{low:g}, and others that do not state theirs"
        yield (
            f"Dataset {dataset} mixes structures of {name} {held}, and the model is not told of it: it learns their "
            f"mean. Set condition_on to {name}."
        )
    periodic = int((table.cell != 0).any(axis=(1, 2)).sum()) if model.global_attention else 0
    if periodic:
        yield (
            f"{periodic} of {len(table)} structures of dataset {dataset} are periodic: global attention leaves them "
            "as they are."
        )
