"""Structures and named groups that several sources share, e.g. at two levels of theory.

The comparison uses 64-bit keys of structures and groups, and their splits. A dataset stores the smallest `MOST` keys of
either kind. Keys are random numbers, equal in every source, so the shared stored keys are a fair sample of all shared
keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.packed_records import Shard
from gfm_pipeline.apps.ingest.checks.fingerprints import POSITION_STEP, mixed
from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE_ID
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import storage_errors

KEYS_FILE = "structure_keys.npz"
MOST = 200_000
_NAMES = ("structures", "structure_splits", "groups", "group_splits")
_NO_SPLIT = ~np.uint64(3)  # bits of a group's number without the given split

Ids = NDArray[np.uint64]
SplitSets = NDArray[np.uint8]


def structure_keys(
    numbers: NDArray[np.uint8],
    pos: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    natoms: NDArray[np.int64],
) -> Ids:
    """Return a key of each structure [G]: of its atoms in any order and its periodic vectors, to 0.001 Angstrom.

    It ignores labels. ``numbers`` [N], ``pos`` [N, 3], ``cell`` [G, 3, 3], ``pbc`` [G, 3], ``natoms`` [G].
    """
    if not len(natoms):
        return np.zeros(0, np.uint64)
    steps = np.rint(pos / POSITION_STEP).astype(np.int64)
    vectors = np.rint(np.where(pbc[:, :, None], cell, 0.0) / POSITION_STEP).astype(np.int64).reshape(-1, 9)
    with np.errstate(over="ignore"):
        atoms = np.add.reduceat(mixed(numbers, *steps.T), np.cumsum(natoms) - natoms)
        return mixed(atoms, natoms, pbc @ np.array([1, 2, 4]), *vectors.T)


def _compositions(numbers: NDArray[np.uint8], natoms: NDArray[np.int64]) -> Ids:
    with np.errstate(over="ignore"):
        return np.asarray(np.add.reduceat(mixed(numbers), np.cumsum(natoms) - natoms), dtype=np.uint64)


@dataclass(frozen=True)
class Keys:
    """Keys of structures and of named groups, ascending, each with its split; a key may be in several splits."""

    structures: Ids
    structure_splits: SplitSets
    groups: Ids
    group_splits: SplitSets

    @classmethod
    def none(cls) -> Keys:
        """Return no keys."""
        ids, splits = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
        return cls(ids, splits, ids, splits)

    def with_records(self, part: Shard, splits: SplitSets, by_name: bool) -> Keys:
        """Return the keys together with those of more records and their splits, without isolated atoms.

        With ``by_name``, groups have keys of their name and composition, since a key of the records names them.
        """
        bound = part.group_id != np.uint64(LONE_ID)
        if not bound.any():
            return self
        structures = structure_keys(part.numbers, part.pos, part.cell, part.pbc, part.natoms)[bound]
        both = _smallest(self.structures, self.structure_splits, structures, splits[bound])
        if not by_name:
            return Keys(*both, self.groups, self.group_splits)
        names = mixed(part.group_id & _NO_SPLIT, _compositions(part.numbers, part.natoms))[bound]
        return Keys(*both, *_smallest(self.groups, self.group_splits, names, splits[bound]))

    def write(self, folder: Path) -> None:
        """Write the keys into the folder of a dataset."""
        with storage_errors(folder / KEYS_FILE):
            np.savez(folder / KEYS_FILE, allow_pickle=False, **{name: getattr(self, name) for name in _NAMES})

    @classmethod
    def read(cls, folder: Path) -> Keys | None:
        """Return those of a dataset; None for one that is from before they were kept.

        Raises
        ------
        IntegrityError
            When the file is damaged.
        """
        path = folder / KEYS_FILE
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(*(arrays[name] for name in _NAMES))
        except (OSError, KeyError, ValueError) as error:
            raise IntegrityError(f"{path} does not hold keys of structures: {error}.") from error


def _smallest(keys: Ids, splits: SplitSets, more: Ids, of_more: SplitSets) -> tuple[Ids, SplitSets]:
    together, where = np.concatenate([keys, more]), np.concatenate([splits, of_more])
    order = np.lexsort((where, together))
    together, where = together[order], where[order]
    new = np.concatenate([[True], (together[1:] != together[:-1]) | (where[1:] != where[:-1])])[: len(together)]
    return together[new][:MOST], where[new][:MOST]


@dataclass(frozen=True)
class _Shared:
    number: int
    apart: int  # in training of one, and in validation or test of the other


def _shared(one: tuple[Ids, SplitSets], other: tuple[Ids, SplitSets]) -> _Shared:
    def keys(side: tuple[Ids, SplitSets], training: bool) -> Ids:
        found, splits = side
        return np.unique(found[(splits == 0) == training])

    leaks = [np.intersect1d(keys(a, True), keys(b, False), assume_unique=True) for a, b in ((one, other), (other, one))]
    return _Shared(len(np.intersect1d(one[0], other[0])), len(np.union1d(*leaks)))


def shared_structure_warnings(keys: dict[str, Keys], together: bool) -> tuple[str, ...]:
    """Return a warning per pair of sources that share structures or groups in different splits.

    Parameters
    ----------
    keys
        By source.
    together
        Whether splits were dealt together, so that shared structures should be in the same split.
    """
    return tuple(_warnings(keys, together))


def _warnings(keys: dict[str, Keys], together: bool) -> Iterator[str]:
    for (one, a), (other, b) in combinations(sorted(keys.items()), 2):
        found = {
            "structures": _shared((a.structures, a.structure_splits), (b.structures, b.structure_splits)),
            "groups of one name and composition": _shared((a.groups, a.group_splits), (b.groups, b.group_splits)),
        }
        parts = [f"{shared.apart:,} of {shared.number:,} {what}" for what, shared in found.items() if shared.number > 0]
        if not any(shared.apart for shared in found.values()):
            continue
        whole = max(len(a.structures), len(b.structures)) < MOST
        cure = (
            "Give both sources the same group_key, of names that they share, and no splits."
            if together
            else "Set split_across_sources: together in data, so that what they share is in one split in both."
        )
        yield (
            f"Sources {one} and {other} leak into each other's tests: {' and '.join(parts)} that both have"
            f"{'' if whole else ' (of a sample)'} are in training of one and in validation or test of the other. "
            f"A model learns from both, so its errors there are too small. {cure}"
        )
