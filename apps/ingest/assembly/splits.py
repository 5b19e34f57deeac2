"""Training, validation and test splits by whole groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.given_splits import given
from gfm_pipeline.apps.ingest.checks.fingerprints import order_keys
from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE_ID
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.errors import DataError

_VALIDATION, _TEST = 1, 2
SPLITS = (Split.TRAIN, Split.VALIDATION, Split.TEST)


def split_groups(
    sizes: NDArray[np.int64],
    validation: float,
    test: float,
    seed: int,
    name: str,
    pinned: frozenset[int] = frozenset(),
) -> NDArray[np.uint8]:
    """Assign whole groups to splits, as near to the fractions as possible.

    Shuffled groups fill validation, then test, as long as they fit. Then one more group is moved if this brings a split
    nearer to its fraction, and an empty split gets the smallest spare group of another split.

    Parameters
    ----------
    sizes
        Records of every group [K], each above 0.
    validation, test
        Fractions of the records, each above 0, together below 1.
    seed
        The same seed gives the same splits.
    name
        Name of the source, for messages.
    pinned
        Positions of groups that stay in training.

    Returns
    -------
    NDArray
        Position in `SPLITS` of every group [K].

    Raises
    ------
    DataError
        With fewer than three groups, or fractions that leave a split empty.
    """
    check_fractions(validation, test, name)
    if len(sizes) < len(SPLITS):
        raise DataError(
            f"Source {name} has {len(sizes)} group{'s' if len(sizes) != 1 else ''} of records, "
            "and three splits need at least three.",
            "Set group_key to a finer one: a metadata key that names trajectories, @block:N for blocks of N "
            "consecutive frames of a file, or @record if the records are independent.",
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    total = int(sizes.sum())
    where = _pour(order, sizes, {Split.VALIDATION: validation * total, Split.TEST: test * total}, pinned)
    return np.array([SPLITS.index(where[g]) for g in range(len(sizes))], dtype=np.uint8)


def split_rest(sizes: NDArray[np.int64], target: dict[Split, float], seed: int) -> NDArray[np.uint8]:
    """Assign whole groups to training and to the splits of ``target``, which gives their numbers of records.

    As `split_groups`, if some splits are given.

    Returns
    -------
    NDArray
        Position in `SPLITS` of every group [K].
    """
    where = _pour(np.random.default_rng(seed).permutation(len(sizes)), sizes, target, frozenset())
    return np.array([SPLITS.index(where[g]) for g in range(len(sizes))], dtype=np.uint8)


def check_fractions(validation: float, test: float, name: str) -> None:
    """Refuse fractions that leave a split empty.

    Raises
    ------
    DataError
        When they do.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise DataError(
            f"Source {name}: fractions {validation} and {test} leave a split empty.",
            "Choose both above 0, together below 1.",
        )


@dataclass(frozen=True)
class GroupSplits:
    """The split of every group of a source, by the group's 64-bit number; isolated atoms are in training.

    If the groups are few enough to list, `split_groups` assigns them. Otherwise ``known`` is None and a hash of the
    group and the seed decides: so many groups meet the fractions statistically, and memory does not grow with their
    number. With ``given``, the numbers of groups contain the given splits, and the fractions refer to the records to
    deal.
    """

    known: NDArray[np.uint64] | None  # ascending
    which: NDArray[np.uint8] | None
    validation: float
    test: float
    seed: int
    given: bool = False

    def split(self, group_id: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Return the position in `SPLITS` of each record's group [G]."""
        if self.known is not None and self.which is not None:
            return self.which[np.searchsorted(self.known, group_id)]
        drawn = order_keys(self.seed, group_id) / 2.0**64
        split = np.where(drawn < self.validation, _VALIDATION, np.where(drawn < self.validation + self.test, _TEST, 0))
        if self.given:
            was = given(group_id)
            split = np.where(was > 0, was, split)
        return np.where(group_id == np.uint64(LONE_ID), 0, split).astype(np.uint8)

    def number(self, group_id: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the number of each record's group in the dataset [G]."""
        if self.known is not None:
            return np.searchsorted(self.known, group_id).astype(np.int64)
        return (group_id >> np.uint64(1)).astype(np.int64)


def _pour(
    order: NDArray[np.int64], sizes: NDArray[np.int64], target: dict[Split, float], pinned: frozenset[int]
) -> dict[int, Split]:
    where = {int(g): Split.TRAIN for g in order}
    left = dict(target)
    for g in (g for g in where if g not in pinned):
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
        spare = [g for g, s in where.items() if s is giver and g not in pinned]
        if not spare:
            continue
        nearest = min(spare, key=lambda g: sizes[g] if empty else abs(left[split] - sizes[g]))
        if empty or abs(left[split] - sizes[nearest]) < left[split]:
            where[nearest] = split
            left[split] -= sizes[nearest]
    return where
