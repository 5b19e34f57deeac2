"""Converts labels of targets to numbers of the declared shape; other labels quarantine their record."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.records import RefusedError
from gfm_pipeline.core.contracts.properties.attributes import Attribute
from gfm_pipeline.core.contracts.targets import Level, Rank, Target

Numbers = NDArray[np.float64]
_VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # xx, yy, zz, yz, xz, xy, as in ASE
ASYMMETRY = 1e-3  # of the largest component
_WIDTHS = {Rank.SCALAR: {1}, Rank.VECTOR: {3}, Rank.TENSOR: {6, 9}}
_WORDS = {Rank.SCALAR: "one number", Rank.VECTOR: "three numbers", Rank.TENSOR: "six or nine numbers"}


def numbers_in(target: str, value: Any) -> Numbers | None:
    """Return a label as an array of numbers; None for an empty text, which marks missing values in tables.

    Raises
    ------
    RefusedError
        When it is not an array of numbers.
    """
    if isinstance(value, str) and not value.strip():
        return None
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RefusedError(f"{target} is neither a number nor an array of numbers: {str(value)[:40]!r}") from error


def attribute_value(attribute: Attribute, value: Any) -> Numbers | None:
    """Return the value of an attribute of a record as an array of one number; None for missing values of tables.

    Raises
    ------
    RefusedError
        When it is not a number, or none of the categories.
    """
    if (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and np.isnan(value)):
        return None
    try:
        number = attribute.number(value)
    except ValueError as error:
        raise RefusedError(f"{attribute.name} {error}: {str(value)[:40]!r}") from error
    return None if number == attribute.unknown else np.array(number)


def as_declared(target: Target, values: Numbers, natoms: int) -> Numbers:
    """Return a label in the declared shape of its target: by rank, with one row per atom for values of atoms.

    A symmetric tensor may be nine numbers, or six in the order xx, yy, zz, yz, xz, xy.

    Raises
    ------
    RefusedError
        When it has another shape, or a tensor is not symmetric.
    """
    rows = natoms if target.level is Level.ATOM else 1
    width, left = divmod(values.size, max(1, rows))
    fits = not left and width in _WIDTHS[target.rank] and (values.shape[:1] == (rows,) or rows == 1)
    if not fits:
        of = f"for each of {natoms} atoms" if target.level is Level.ATOM else "for the structure"
        shape = "x".join(map(str, values.shape)) or "one number"
        raise RefusedError(f"wrong shape of {target.name}: {shape}, where {_WORDS[target.rank]} {of} are needed")
    flat: Numbers = values.reshape(rows, width)
    if target.rank is Rank.TENSOR:
        flat = (flat[:, _VOIGT] if width == 6 else flat).reshape(rows, 3, 3)
        off = np.abs(flat - flat.transpose(0, 2, 1))
        if (off > ASYMMETRY * max(np.abs(flat).max(initial=0.0), 1e-30)).any():
            raise RefusedError(f"{target.name} is not symmetric: two components differ by {float(off.max()):.3g}")
        flat = 0.5 * (flat + flat.transpose(0, 2, 1))
    return flat.reshape((rows, *target.shape) if target.level is Level.ATOM else target.shape)


def missing_label(target: Target, natoms: int) -> Numbers:
    """Return NaN in the shape of a missing label."""
    return np.full((natoms, *target.shape) if target.level is Level.ATOM else target.shape, np.nan)
