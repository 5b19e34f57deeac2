"""Training, validation and test splits by whole groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.contracts.data import Split
from gfm_pipeline.common.errors import DataError


@dataclass(frozen=True)
class Assignment:
    """Record indices of each split, shuffled, and the number of groups in each."""

    records: dict[Split, NDArray[np.int64]]
    n_groups: dict[Split, int]


def split_by_group(group: NDArray[np.int64], validation: float, test: float, seed: int, name: str) -> Assignment:
    """Assign whole groups to splits, as near to the fractions as whole groups allow.

    Groups are shuffled and poured into validation, then test, wherever they still fit; then one more group is
    moved where that brings a split nearer to its fraction, and an empty split gets the smallest group that another
    split can spare.

    Parameters
    ----------
    group
        Group index of every record [G].
    validation, test
        Fractions of the records, each above 0, together below 1.
    seed
        The same seed gives the same splits.
    name
        Of the source, for messages.

    Raises
    ------
    DataError
        With fewer than three groups, or fractions that leave a split empty.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise DataError(
            f"Source {name}: fractions {validation} and {test} leave a split empty.",
            "Choose both above 0, together below 1.",
        )
    sizes = np.bincount(group)
    present = np.flatnonzero(sizes)
    if len(present) < 3:
        raise DataError(
            f"Source {name} has {len(present)} group{'s' if len(present) != 1 else ''} of records, "
            "and three splits need at least three.",
            "Set group_key to a finer one: a metadata key that names trajectories, @block:N for blocks of N "
            "consecutive frames of a file, or @record if the records are independent.",
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(present)
    target = {Split.VALIDATION: validation * len(group), Split.TEST: test * len(group)}
    where = _pour(order, sizes, target)
    records, n_groups = {}, {}
    for split in Split:
        members = np.array([g for g in order if where[int(g)] is split], dtype=np.int64)
        records[split] = rng.permutation(np.flatnonzero(np.isin(group, members)))
        n_groups[split] = len(members)
    return Assignment(records, n_groups)


def _pour(order: NDArray[np.int64], sizes: NDArray[np.int64], target: dict[Split, float]) -> dict[int, Split]:
    where = {int(g): Split.TRAIN for g in order}
    left = dict(target)
    for g in where:
        for split in left:
            if sizes[g] <= left[split]:
                where[g] = split
                left[split] -= sizes[g]
                break
    for split in left:
        members = Counter(where.values())
        empty = not members[split]
        giver = Split.TRAIN if members[Split.TRAIN] > 1 else max(left, key=lambda s: members[s])
        if members[giver] < 2 or giver is split or (giver is not Split.TRAIN and not empty):
            continue
        spare = [g for g, s in where.items() if s is giver]
        nearest = min(spare, key=lambda g: sizes[g] if empty else abs(left[split] - sizes[g]))
        if empty or abs(left[split] - sizes[nearest]) < left[split]:
            where[nearest] = split
            left[split] -= sizes[nearest]
    return where
