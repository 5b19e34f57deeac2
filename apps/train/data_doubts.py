"""Warnings about data that a model is not designed for, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gfm_pipeline.apps.dataset import GraphTable
from gfm_pipeline.core.contracts.properties.attributes import Attribute, known_attributes
from gfm_pipeline.core.contracts.training import ModelSettings
from gfm_pipeline.core.errors import DataError


def attribute_ranges(table: GraphTable) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest known value of each attribute of structures."""
    known = {name: values[~np.isnan(values)] for name, values in table.attributes.items()}
    return {name: (float(values.min()), float(values.max())) for name, values in known.items() if len(values)}


def unstated_attributes(table: GraphTable) -> tuple[str, ...]:
    """Return the attributes that some structures do not state."""
    return tuple(name for name, values in table.attributes.items() if np.isnan(values).any())


def attribute_scales(attributes: Sequence[Attribute], tables: Sequence[GraphTable]) -> dict[str, float]:
    """Return the unit of each attribute: the largest difference of known values from the neutral one, or 1 if it is 0.

    For extensive attributes it is per atom. Categories have none.
    """
    found = {}
    for one in attributes:
        if one.categories:
            continue
        off = [
            np.abs(table.attributes[one.name] - one.neutral) / (table.natoms if one.extensive else 1)
            for table in tables
            if one.name in table.attributes
        ]
        found[one.name] = float(np.nanmax(np.concatenate([*off, np.zeros(1)]))) or 1.0
    return found


def check_stated(model: ModelSettings, tables: Sequence[GraphTable]) -> None:
    """Refuse a model that is told of an attribute that no structure of any dataset states.

    Raises
    ------
    DataError
        With the attribute.
    """
    stated = {name for table in tables for name in attribute_ranges(table)}
    for name in model.condition_names:
        if name not in stated:
            raise DataError(
                f"The model is told of the {name} of structures, and no structure of its datasets states it.",
                f"Leave {name} out of search.space.condition_on, or say it of a source that has one value.",
            )


def doubts(
    dataset: str, table: GraphTable, model: ModelSettings, attributes: Sequence[Attribute] = ()
) -> Iterator[str]:
    """Yield warnings, e.g. for each attribute that varies between structures and is no input of the model.

    ``attributes`` are those besides total charge and spin multiplicity.
    """
    known = {one.name: one for one in known_attributes(attributes)}
    unstated = unstated_attributes(table)
    for name, (low, high) in attribute_ranges(table).items():
        one = known[name]
        if name in model.condition_names or (low == high and (name not in unstated or low == one.neutral)):
            continue
        held = f"{one.shown(low)}, and others that do not state theirs"
        if low != high:
            held = f"{one.shown(low)} and others" if one.categories else f"{low:g} to {high:g}"
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
