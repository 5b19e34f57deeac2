"""Predicts the splits of a source from the records of a preview, before any conversion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.given_splits import GivenSplits, with_split
from gfm_pipeline.apps.ingest.assembly.groups import Grouping, Groups, symbols_of
from gfm_pipeline.apps.ingest.assembly.plan import has_default_groups, named_by_records, split_together
from gfm_pipeline.apps.ingest.assembly.shard import MEMBERS
from gfm_pipeline.apps.ingest.assembly.split_rules import SplitRequest, choose_splits
from gfm_pipeline.apps.ingest.assembly.splits import SPLITS
from gfm_pipeline.apps.ingest.checks.fingerprints import group_id
from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE_ID
from gfm_pipeline.apps.ingest.checks.shared_structures import structure_keys
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec, SplitPreview
from gfm_pipeline.core.errors import DataError


@dataclass(frozen=True)
class SampleSplits:
    """The resulting splits (of a complete source), warnings about them, and the reason if there are none."""

    splits: tuple[SplitPreview, ...] = ()
    sentences: tuple[str, ...] = ()
    failure: str | None = None


def sample_splits(records: list[Record], spec: PreviewSpec, complete: bool) -> SampleSplits:
    """Return the splits that would result from usable records.

    Parameters
    ----------
    records
        In eV and Angstrom.
    spec
        Request of the preview.
    complete
        Whether they are the whole source. For a sample, only too few groups give a warning, since ingest reads all
        records.
    """
    source = spec.source
    if source.test_of is not None and records:
        found = tuple(chemical_symbols[z] for z in sorted({int(z) for record in records for z in record.numbers}))
        groups_of = len({record.group for record in records})
        return SampleSplits((SplitPreview(str(Split.TEST), len(records), groups_of, 1.0, None, found),))
    if not records or not (complete or len({record.group for record in records}) < 3):
        return SampleSplits()
    what = GivenSplits.of(source)
    numbers_of = [(group_id(str(record.group)), record.split) for record in records]
    ids = np.array([n if what is None else with_split(n, stated) for n, stated in numbers_of], dtype=np.uint64)
    what = None if what is None else what.found_in([ids])
    place = [np.array([getattr(r, name) for r in records], np.int64) for name in ("file_index", "member", "index")]
    last: dict[int, int] = {}
    for file, member, index in zip(*(column.tolist() for column in place), strict=True):
        last[file * MEMBERS + member] = max(last.get(file * MEMBERS + member, 0), index + 1)
    ends = np.cumsum([last[file] for file in sorted(last)])
    offsets = {file: int(end) - last[file] for file, end in zip(sorted(last), ends, strict=True)}
    numbers = np.concatenate([record.numbers for record in records]).astype(np.uint8)
    natoms = np.array([len(record.numbers) for record in records])

    together = split_together(source, spec.across)
    if together and not named_by_records(source):
        pos, cell, pbc = (
            np.concatenate([r.pos for r in records]),
            *(np.stack([np.asarray(getattr(r, name)) for r in records]) for name in ("cell", "pbc")),
        )
        by_structure = structure_keys(numbers, pos, cell, pbc, natoms)
        ids = np.where(ids == np.uint64(LONE_ID), ids, by_structure)

    def groups(block: int | None) -> Groups:
        return Groups.of_records(Grouping.of_files(offsets, block, what is not None).ids(ids, *place), numbers, natoms)

    request = SplitRequest(
        spec.validation, spec.test, spec.seed, source.name, has_default_groups(source), what, together
    )
    try:
        choice = choose_splits(groups(None), groups, request)
    except DataError as error:
        return SampleSplits(failure=str(error) if complete else f"Of the records read so far: {error}")
    if not complete:
        return SampleSplits(sentences=tuple(f"Of the records read so far: {one}" for one in choice.sentences))
    chosen = groups(choice.block)
    return SampleSplits(_splits(chosen, choice.splits.split(chosen.ids), request), choice.sentences)


def _splits(groups: Groups, which: NDArray[np.uint8], request: SplitRequest) -> tuple[SplitPreview, ...]:
    given = frozenset[Split]() if request.given is None else frozenset(request.given.found)
    total = max(1, int(groups.sizes.sum()))
    found = []
    for number, (split, share) in enumerate(zip(SPLITS, request.shares().tolist(), strict=True)):
        mine = which == number
        records = int(groups.sizes[mine].sum())
        words = np.bitwise_or.reduce(groups.elements[mine], axis=0) if mine.any() else np.zeros(2, np.uint64)
        requested = None if split in given else share
        found.append(SplitPreview(str(split), records, int(mine.sum()), records / total, requested, symbols_of(words)))
    return tuple(found)
