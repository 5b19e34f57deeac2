"""The split of a record according to the index lists of a source."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.data import IndexList, Split
from gfm_pipeline.core.errors import DataError

UNLISTED = "in no index list of the source"


def listed_split(lists: tuple[IndexList, ...], member: int, index: int) -> str | None:
    """Return the split of a record by its number in the file; None if no list has it, or it is in an archive."""
    if member:
        return None
    for one in lists:
        numbers = _numbers(one.path)
        at = int(np.searchsorted(numbers, index))
        if at < len(numbers) and numbers[at] == index:
            return str(one.split)
    return None


def leaves_out(lists: tuple[IndexList, ...]) -> bool:
    """Return whether records in no list are unused, which is so if training has a list."""
    return any(one.split is Split.TRAIN for one in lists)


@lru_cache(maxsize=8)
def _numbers(path: str) -> NDArray[np.int64]:
    """Return the ascending numbers of a list; the driver has checked them."""
    try:
        with open(path, encoding="utf-8") as stream:
            return np.unique(np.array(stream.read().replace(",", " ").split(), dtype=np.int64))
    except (OSError, ValueError) as error:
        raise DataError(f"The index list {path} cannot be read any more: {error}.", "Restore it.") from error
