"""Splits that the user gives, by file or by a key of the records.

The two lowest bits of a group's number store the given split of its records: 0 for none, else one more than its
position among the three splits. So records of one named group in two given splits form two groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE, LONE_ID
from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.contracts.sources import split_named

ORDER = tuple(Split)
BITS, MASK = np.uint64(2), np.uint64(3)

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class GivenSplits:
    """The given splits.

    Attributes
    ----------
    named
        Splits that must have records, since files are assigned to them.
    by_name
        Whether a key of the records names the groups, so that a name in two splits deserves a warning.
    found
        Given splits of usable records.
    """

    named: frozenset[Split]
    by_name: bool
    found: frozenset[Split] = frozenset()

    @classmethod
    def of(cls, source: SourceSettings) -> GivenSplits | None:
        """Return the given splits of a source; None if all records are dealt."""
        if source.split_key is None and source.file_splits is None and source.split_indices is None:
            return None
        named = frozenset(split for split in source.file_splits or () if split is not None)
        named |= frozenset(one.split for one in source.split_indices or ())
        return cls(named, source.group_key is not None and not source.group_key.startswith("@"))

    def found_in(self, ids: Iterable[Ids]) -> GivenSplits:
        """Return a copy with the given splits of the records of these groups."""
        found = {k for some in ids for k in np.unique(given(some[some != np.uint64(LONE_ID)])).tolist()}
        return replace(self, found=frozenset(ORDER[k] for k in found if k >= 0))


def stated_split(source: SourceSettings, file_index: int, find: Callable[[str], object]) -> str | None:
    """Return the split that a record or its file states, as written, or None."""
    if source.split_key is not None:
        value = find(source.split_key)
        return None if value is None else str(value)
    return None if source.file_splits is None else source.file_splits[file_index]


def unknown_split(source: SourceSettings, name: str | None, group: str | None) -> str | None:
    """Return why the split of a record is unknown; None if it is known, dealt, or irrelevant."""
    if source.split_key is None or group == LONE:
        return None
    if name is None:
        return f"no split: the record has no `{source.split_key}`"
    if split_named(name) is None:
        return f"unknown split: `{source.split_key}` is {name[:20]!r}, not train, validation or test"
    return None


def with_split(group: int, name: str | None) -> int:
    """Return the number of a group with the given split of its records."""
    if group == LONE_ID:
        return group
    split = split_named(name)
    return group & ~int(MASK) | (0 if split is None else 1 + ORDER.index(split))


def given(ids: Ids) -> NDArray[np.int64]:
    """Return the positions of the given splits of groups [K], -1 for groups to deal."""
    return np.where(ids == np.uint64(LONE_ID), 0, (ids & MASK).astype(np.int64) - 1)


def shared_split_sentence(
    ids: Ids, sizes: NDArray[np.int64], which: NDArray[np.uint8], what: GivenSplits
) -> tuple[str, ...]:
    """Return a sentence on named groups [K] in training and elsewhere: ``sizes`` in records, ``which`` splits."""
    if not what.by_name:
        return ()
    names = ids >> BITS
    elsewhere = (which != 0) & np.isin(names, names[which == 0])
    if not elsewhere.any():
        return ()
    n = int(sizes[elsewhere].sum())
    return (
        f"The splits as they were given share groups: {len(np.unique(names[elsewhere]))} groups are in training and in "
        f"validation or test ({n:,} records there). Errors on these are smaller than on new groups.",
    )


def repeated_split_sentence(n: int, kept: bool) -> tuple[str, ...]:
    """Return the sentence that ``n`` records repeat one of another given split."""
    if not n:
        return ()
    fate = (
        "all were kept, since duplicates is keep" if kept else "the first of each was kept, in the order of the files"
    )
    many = f"{n:,} records repeat" if n > 1 else "1 record repeats"
    return (f"The splits as they were given overlap: {many} a record of another split exactly; {fate}.",)
