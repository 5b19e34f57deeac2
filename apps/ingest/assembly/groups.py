"""Groups of records, named by metadata or blocks of consecutive records; no split divides a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.given_splits import BITS, MASK
from gfm_pipeline.apps.ingest.assembly.packed_records import Shard
from gfm_pipeline.apps.ingest.assembly.shard import MEMBERS
from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE_ID
from gfm_pipeline.apps.ingest.checks.record_scan import COMPARED_AT_ONCE, Marks, PartRows
from gfm_pipeline.apps.ingest.checks.shared_structures import structure_keys

MAX_GROUPS = 1_000_000  # more groups are dealt by a hash, which needs no list of them
_WORD = 64

Ids = NDArray[np.uint64]


_PLACE = ("file_index", "member", "index")
_STRUCTURE = ("numbers", "pos", "cell", "pbc", "natoms")


def _by_structure(group_id: Ids, *structure: NDArray[Any]) -> Ids:
    return np.where(group_id == np.uint64(LONE_ID), group_id, structure_keys(*structure))


@dataclass(frozen=True)
class Grouping:
    """Maps records to groups: the named group, or a block of ``block`` consecutive records of the source.

    ``files`` [F] are positions in the source times `MEMBERS`, plus member, ascending, and ``starts`` [F] the number of
    the first record of each. Isolated atoms form a separate group. With ``given``, the numbers of groups contain the
    given splits (`assembly.given_splits`), and blocks lie within these splits. With ``structures`` each structure is a
    group, whatever its name.
    """

    files: NDArray[np.int64]
    starts: NDArray[np.int64]
    block: int | None = None
    given: bool = False
    structures: bool = False

    @classmethod
    def of_files(cls, offsets: dict[int, int], block: int | None = None, given: bool = False) -> Grouping:
        """Return the grouping of files with these numbers of first records."""
        files = np.array(sorted(offsets), dtype=np.int64)
        return cls(files, np.array([offsets[file] for file in files.tolist()], dtype=np.int64), block, given)

    def ids(
        self,
        group_id: Ids,
        file_index: NDArray[np.int64],
        member: NDArray[np.int64],
        index: NDArray[np.int64],
    ) -> Ids:
        """Return the group of each record [G] from its named group and its position."""
        if self.block is None:
            return group_id
        blocks = (self.places(file_index, member, index) // self.block).astype(np.uint64)
        if self.given:
            blocks = (blocks << BITS) | (group_id & MASK)
        return np.where(group_id == np.uint64(LONE_ID), group_id, blocks)

    def places(
        self, file_index: NDArray[np.int64], member: NDArray[np.int64], index: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the number of each record [G] among all records of the source, from 0."""
        return self.starts[np.searchsorted(self.files, file_index * MEMBERS + member)] + index

    def of(self, part: PartRows) -> Ids:
        """Return the group of each record of a part."""
        if self.structures:
            group_id, *structure = part.columns("group_id", *_STRUCTURE)
            return _by_structure(group_id, *structure)
        return self.ids(*part.columns("group_id", *_PLACE))

    def of_loaded(self, part: Shard) -> Ids:
        """Return the group of each record of a loaded part."""
        if self.structures:
            return _by_structure(part.group_id, *(getattr(part, name) for name in _STRUCTURE))
        return self.ids(part.group_id, *(getattr(part, name) for name in _PLACE))


@dataclass(frozen=True)
class Groups:
    """Numbers of groups [K], ascending, their sizes [K], and the elements of each as bits of two words [K, 2]."""

    ids: Ids
    sizes: NDArray[np.int64]
    elements: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def join(cls, parts: Iterable[tuple[Ids, NDArray[np.int64], NDArray[np.uint64]]]) -> Groups:
        """Merge groups of several parts, which may share groups."""
        ids, sizes, words = zip(*parts, strict=True)
        together, inverse = np.unique(np.concatenate(ids), return_inverse=True)
        total, elements = np.zeros(len(together), np.int64), np.zeros((len(together), 2), np.uint64)
        np.add.at(total, inverse, np.concatenate(sizes))
        np.bitwise_or.at(elements, inverse, np.concatenate(words))
        return cls(together, total, elements)

    @classmethod
    def of_records(cls, ids: Ids, numbers: NDArray[np.uint8], natoms: NDArray[np.int64]) -> Groups:
        """Return the groups of records [G], whose atoms are ``numbers`` [N]."""
        return cls.join([(ids, np.ones(len(ids), np.int64), element_words(numbers, natoms))])

    def split_off_lone(self) -> tuple[Groups, Groups]:
        """Return the groups without that of isolated atoms, and the group of isolated atoms."""
        lone = self.ids == np.uint64(LONE_ID)
        others, alone = (Groups(self.ids[rows], self.sizes[rows], self.elements[rows]) for rows in (~lone, lone))
        return others, alone


def element_words(numbers: NDArray[np.uint8], natoms: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the elements of each structure as bits of two words [G, 2]."""
    words = np.zeros((len(natoms), 2), np.uint64)
    starts, z = np.cumsum(natoms) - natoms, numbers.astype(np.uint64)
    bit = np.uint64(1) << (z % np.uint64(_WORD))
    for k in range(2 if len(natoms) else 0):
        words[:, k] = np.bitwise_or.reduceat(np.where(z // np.uint64(_WORD) == k, bit, np.uint64(0)), starts)
    return words


def symbols_of(words: NDArray[np.uint64]) -> tuple[str, ...]:
    """Return the symbols of the elements in two words [2], by atomic number."""
    return tuple(
        chemical_symbols[z] for z in range(1, len(chemical_symbols)) if int(words[z // _WORD]) >> (z % _WORD) & 1
    )


def survey_groups(parts: list[PartRows], marks: Marks, grouping: Grouping) -> Groups | None:
    """Return the groups of the kept records; None when there are too many."""
    found = Groups(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros((0, 2), np.uint64))
    for part in parts:
        mask = marks.kept(part)
        numbers, natoms = part.columns("numbers", "natoms")
        new = Groups.of_records(grouping.of(part)[mask], numbers[np.repeat(mask, natoms)], natoms[mask])
        found = Groups.join([(g.ids, g.sizes, g.elements) for g in (found, new)])
        if len(found) > MAX_GROUPS:
            return None
    return found


def count_groups(
    parts: list[PartRows], marks: Marks, grouping: Grouping, split: Callable[[Ids], NDArray[np.uint8]]
) -> list[int]:
    """Return the number of groups in each of the three splits, in as many passes as memory requires."""
    passes = max(1, -(-sum(part.n for part in parts) // COMPARED_AT_ONCE))
    totals = np.zeros(3, np.int64)
    for number in range(passes):
        ids = np.zeros(0, np.uint64)
        for part in parts:
            group = grouping.of(part)
            mine = group[marks.kept(part) & (group % np.uint64(passes) == number)]
            ids = np.unique(np.concatenate([ids, mine]))
        totals += np.bincount(split(ids), minlength=3)
    return totals.tolist()
