"""The artefact between reading and assembling: parts of bounded size, each one ``.npz`` of flat arrays, no pickles.

Programs write and read a shard part by part, so that disk and not memory limits its size. ``index.json`` describes the
parts, for decisions that need no records.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from gfm_pipeline.apps.ingest.assembly.given_splits import GivenSplits
from gfm_pipeline.apps.ingest.assembly.packed_records import Shard, concatenate, pack
from gfm_pipeline.apps.ingest.checks.filters import oddity
from gfm_pipeline.apps.ingest.checks.label_evidence import Collector, Evidence
from gfm_pipeline.apps.ingest.labels.inventory import Inventory
from gfm_pipeline.apps.ingest.reasons import by_frequency, count_reason, reason_name
from gfm_pipeline.apps.ingest.records import PassedOver, Record
from gfm_pipeline.core.contracts.data import QUARANTINE_FILE, BadRecord, SourceSettings
from gfm_pipeline.core.contracts.ingest.label_keys import LabelInventory
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import storage_errors, verify, write_record
from gfm_pipeline.core.records import canonical_json, from_plain, read_record, to_plain

INDEX_FILE = "index.json"
EVIDENCE_FILE = "evidence.npz"
PART_RECORDS, PART_ATOMS = 8_192, 400_000  # a part is full at either limit; 400,000 atoms are about 25 MB
MEMBERS = 1 << 32  # largest number of members of an archive


@dataclass(frozen=True)
class ShardPart:
    """One file of a shard."""

    file: str
    n_records: int
    n_atoms: int


@dataclass(frozen=True)
class ShardIndex:
    """The contents of a shard.

    ``elements`` are atomic numbers; ``last_index`` maps each file (its position in the source, times `MEMBERS`, plus
    the member of an archive) to the highest number of a good record in it. ``reasons`` and ``oddities`` count records
    set aside, and odd records that were kept. ``passed_over`` counts valid records that do not belong to this source.
    ``labels`` are the keys of its records, and ``weighted`` the targets whose labels have weights other than 1.
    """

    parts: tuple[ShardPart, ...]
    elements: tuple[int, ...]
    last_index: dict[int, int]
    reasons: dict[str, int]
    oddities: dict[str, int]
    passed_over: dict[str, int] = field(default_factory=dict)
    labels: LabelInventory = field(default_factory=LabelInventory)
    weighted: tuple[str, ...] = ()

    @property
    def n_records(self) -> int:
        """Records in all parts."""
        return sum(part.n_records for part in self.parts)

    @property
    def n_quarantined(self) -> int:
        """Records that were set aside."""
        return sum(self.reasons.values())


@dataclass
class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes a shard into a folder, part by part; memory holds one part."""

    folder: Path
    source: SourceSettings
    _records: list[Record] = field(default_factory=list)
    _n_atoms: int = 0
    _parts: list[ShardPart] = field(default_factory=list)
    _elements: set[int] = field(default_factory=set)
    _last: dict[int, int] = field(default_factory=dict)
    _reasons: Counter[str] = field(default_factory=Counter)
    _oddities: Counter[str] = field(default_factory=Counter)
    _passed_over: Counter[str] = field(default_factory=Counter)
    _collector: Collector = field(default_factory=Collector)
    _weighted: set[str] = field(default_factory=set)
    _quarantine: IO[str] | None = None

    def __post_init__(self) -> None:
        self._inventory = Inventory(self.source)

    def __enter__(self) -> ShardWriter:
        path = self.folder / QUARANTINE_FILE
        with storage_errors(path):
            self._quarantine = open(path, "w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close open files; `finish` writes the index, without which there is no shard."""
        if self._quarantine is not None:
            with storage_errors(self.folder / QUARANTINE_FILE):
                self._quarantine.close()

    def add(self, record: Record) -> None:
        """Add a converted, usable record."""
        self._records.append(record)
        self._n_atoms += len(record.numbers)
        file = record.file_index * MEMBERS + record.member
        self._last[file] = max(self._last.get(file, 0), record.index)
        odd = oddity(record)
        if odd is not None:
            self._oddities[odd] += 1
        self._collector.add(record)
        self._inventory.add_energy(record)
        if len(self._records) >= PART_RECORDS or self._n_atoms >= PART_ATOMS:
            self._flush()

    def set_aside(self, bad: BadRecord) -> None:
        """Record an unusable record."""
        self._reasons[reason_name(bad.reason)] += 1
        if self._quarantine is not None:
            with storage_errors(self.folder / QUARANTINE_FILE):
                self._quarantine.write(canonical_json(to_plain(bad)) + "\n")

    def pass_over(self, item: PassedOver) -> None:
        """Count a record that does not belong to this source."""
        count_reason(self._passed_over, item.reason)

    def inspect(self, record: Record) -> None:
        """Count the keys of a record from the reader, good or bad."""
        self._inventory.add(record)

    def _flush(self) -> None:
        if not self._records:
            return
        splits_given = GivenSplits.of(self.source) is not None
        part = pack(self._records, self.source.duplicates, splits_given, self.source.columns)
        path = self.folder / f"part-{len(self._parts):05d}.npz"
        with storage_errors(path):
            np.savez(path, allow_pickle=False, **part.arrays())
        self._parts.append(ShardPart(path.name, len(part), len(part.numbers)))
        self._elements.update(np.unique(part.numbers).tolist())
        self._weighted.update(part.weights)
        self._records, self._n_atoms = [], 0

    def finish(self) -> tuple[ShardIndex, Evidence]:
        """Write the rest and the index."""
        self._flush()
        index = ShardIndex(
            tuple(self._parts),
            tuple(sorted(self._elements)),
            dict(sorted(self._last.items())),
            by_frequency(self._reasons),
            by_frequency(self._oddities),
            by_frequency(self._passed_over),
            self._inventory.found(),
            tuple(sorted(self._weighted)),
        )
        evidence = self._collector.evidence()
        path = self.folder / EVIDENCE_FILE
        with storage_errors(path):
            np.savez(path, allow_pickle=False, **{name: getattr(evidence, name) for name in _EVIDENCE})
        write_record(self.folder / INDEX_FILE, index)
        return index, evidence


_EVIDENCE = tuple(Evidence.__dataclass_fields__)


def write_quarantine(path: Path, bad: Iterable[BadRecord]) -> None:
    """Write one JSON line per quarantined record."""
    with storage_errors(path), open(path, "w", encoding="utf-8") as stream:
        stream.writelines(canonical_json(to_plain(record)) + "\n" for record in bad)


def read_quarantine(folder: Path) -> Iterator[BadRecord]:
    """Yield the quarantined records of a shard or a dataset."""
    with open(folder / QUARANTINE_FILE, encoding="utf-8") as stream:
        for line in stream:
            yield from_plain(BadRecord, json.loads(line))


def open_shard(folder: Path) -> tuple[ShardIndex, Evidence]:
    """Check a published shard against its manifest, digests included, and read its index and evidence.

    Raises
    ------
    IntegrityError
        When it is damaged or was never finished.
    """
    verify(folder, digests=True)
    try:
        with np.load(folder / EVIDENCE_FILE, allow_pickle=False) as arrays:
            known = [name for name in _EVIDENCE if name in arrays]  # a shard of an earlier version lacks some fields
            values = {name: arrays[name] if arrays[name].ndim else arrays[name].item() for name in known}
        return read_record(ShardIndex, folder / INDEX_FILE), Evidence(**values)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise IntegrityError(f"{folder} is not a shard of this program: {error}.") from error


def read_shard(folder: Path) -> tuple[Shard, list[BadRecord]]:
    """Check a published shard and read all of it into memory.

    Raises
    ------
    IntegrityError
        When it is damaged or was never finished.
    """
    index, _ = open_shard(folder)
    parts = [Shard.load(folder / part.file) for part in index.parts]
    return concatenate(parts or [pack([])]), list(read_quarantine(folder))
