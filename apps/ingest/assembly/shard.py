"""The artefact between reading and assembling: parts of bounded size, each one ``.npz`` of flat arrays, no pickles.

A shard is written and read part by part, so that its size is limited by the disk and not by memory. ``index.json``
says what the parts hold, for decisions that need no records.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.degrees import degrees_of
from gfm_pipeline.apps.dataset.store.columns import flat_ranges
from gfm_pipeline.apps.ingest.assembly.given_splits import GivenSplits, with_split
from gfm_pipeline.apps.ingest.checks.filters import oddity
from gfm_pipeline.apps.ingest.checks.fingerprints import fingerprint, group_id
from gfm_pipeline.apps.ingest.checks.label_consistency import Collector, Evidence
from gfm_pipeline.apps.ingest.labels.inventory import Inventory
from gfm_pipeline.apps.ingest.reasons import by_frequency, count_reason, reason_name
from gfm_pipeline.apps.ingest.records import PassedOver, Record
from gfm_pipeline.core.contracts.data import QUARANTINE_FILE, BadRecord, Duplicates, SourceSettings
from gfm_pipeline.core.contracts.label_keys import LabelInventory
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import storage_errors, verify, write_record
from gfm_pipeline.core.records import canonical_json, from_plain, read_record, to_plain

INDEX_FILE = "index.json"
EVIDENCE_FILE = "evidence.npz"
PART_RECORDS, PART_ATOMS = 8_192, 400_000  # a part is full at either; 400,000 atoms are about 25 MB
MEMBERS = 1 << 32  # of an archive, at most
PER_ATOM = frozenset({"numbers", "pos", "forces", "degrees"})


@dataclass(frozen=True)
class Shard:
    """G records with N atoms, eV and Angstrom, float64.

    ``groups`` are names [G] and ``group_id`` their 64-bit numbers; ``file_index``, ``member`` and ``index`` [G] say
    where a record comes from (path of the source, member of an archive, position in it); ``fingerprint`` [G] is equal
    for repetitions (0 where these are kept); ``charge`` and ``spin`` [G] are NaN where they are not known. ``degrees``
    [N, R] are neighbours within each of `gfm_pipeline.apps.dataset.neighbors.degrees.RADII`: counting them is most of
    the work of
    ingest, and shards are made beside each other.
    """

    numbers: NDArray[np.uint8]
    pos: NDArray[np.float64]
    forces: NDArray[np.float64]
    energy: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    natoms: NDArray[np.int64]
    groups: NDArray[np.str_]
    group_id: NDArray[np.uint64]
    file_index: NDArray[np.int64]
    member: NDArray[np.int64]
    index: NDArray[np.int64]
    fingerprint: NDArray[np.uint64]
    charge: NDArray[np.float32]
    spin: NDArray[np.float32]
    degrees: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.natoms)

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Read one part; degrees are counted where a part is from before they were kept."""
        names = [name for name in cls.__dataclass_fields__ if name != "degrees"]
        values = dict(zip(names, load_part(path, *names), strict=True))
        degrees = kept_degrees(path)
        if degrees is None:
            degrees = degrees_of(values["pos"], values["cell"], values["pbc"], values["natoms"])
        return cls(**values, degrees=degrees)


def pack(records: list[Record], duplicates: Duplicates = Duplicates.KEEP, splits_given: bool = False) -> Shard:
    """Join checked records (energy and group present); forces that there are not are NaN.

    Where splits are given, ``group_id`` holds them, and repetitions are looked for whether they are kept or not.
    """

    def number(record: Record) -> int:
        group = group_id(str(record.group))
        return with_split(group, record.split) if splits_given else group

    def atoms(rows: list[Any]) -> NDArray[np.float64]:
        return np.concatenate([np.zeros((0, 3)), *rows]).astype(np.float64)

    kept = duplicates is Duplicates.KEEP and not splits_given
    pos = atoms([r.pos for r in records])
    cell = np.array([r.cell for r in records], dtype=np.float64).reshape(-1, 3, 3)
    pbc = np.array([r.pbc for r in records], dtype=np.bool_).reshape(-1, 3)
    natoms = np.array([len(r.numbers) for r in records], dtype=np.int64)
    return Shard(
        numbers=np.concatenate([np.zeros(0, np.uint8), *[r.numbers for r in records]]).astype(np.uint8),
        pos=pos,
        forces=atoms([np.full((len(r.numbers), 3), np.nan) if r.forces is None else r.forces for r in records]),
        energy=np.array([r.energy for r in records], dtype=np.float64),
        cell=cell,
        pbc=pbc,
        natoms=natoms,
        groups=np.array([str(r.group) for r in records], dtype=np.str_),
        group_id=np.array([number(r) for r in records], dtype=np.uint64),
        file_index=np.array([r.file_index for r in records], dtype=np.int64),
        member=np.array([r.member for r in records], dtype=np.int64),
        index=np.array([r.index for r in records], dtype=np.int64),
        fingerprint=np.array([0 if kept else fingerprint(r, duplicates) for r in records], dtype=np.uint64),
        charge=np.array([np.nan if r.charge is None else r.charge for r in records], dtype=np.float32),
        spin=np.array([np.nan if r.spin is None else r.spin for r in records], dtype=np.float32),
        degrees=degrees_of(pos, cell, pbc, natoms),
    )


@dataclass(frozen=True)
class ShardPart:
    """One file of a shard."""

    file: str
    n_records: int
    n_atoms: int


@dataclass(frozen=True)
class ShardIndex:
    """What a shard holds.

    ``elements`` are atomic numbers; ``last_index`` maps each file (its position in the source, times `MEMBERS`, plus
    the member of an archive) to the highest number of a good record in it; ``reasons`` and ``oddities`` count what was
    set aside, and what was kept though it is odd; ``passed_over`` counts what is sound and not for this source;
    ``labels`` are the keys of its records.
    """

    parts: tuple[ShardPart, ...]
    elements: tuple[int, ...]
    last_index: dict[int, int]
    reasons: dict[str, int]
    oddities: dict[str, int]
    passed_over: dict[str, int] = field(default_factory=dict)
    labels: LabelInventory = field(default_factory=LabelInventory)

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
        """Close what is open; the index, which makes it a shard, is written by `finish`."""
        if self._quarantine is not None:
            with storage_errors(self.folder / QUARANTINE_FILE):
                self._quarantine.close()

    def add(self, record: Record) -> None:
        """Take a converted record that was found usable."""
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
        """Name a record that cannot be used."""
        self._reasons[reason_name(bad.reason)] += 1
        if self._quarantine is not None:
            with storage_errors(self.folder / QUARANTINE_FILE):
                self._quarantine.write(canonical_json(to_plain(bad)) + "\n")

    def pass_over(self, item: PassedOver) -> None:
        """Count a record that is not for this source."""
        count_reason(self._passed_over, item.reason)

    def inspect(self, record: Record) -> None:
        """Count the keys of a record as the reader gave it, good or bad."""
        self._inventory.add(record)

    def _flush(self) -> None:
        if not self._records:
            return
        part = pack(self._records, self.source.duplicates, GivenSplits.of(self.source) is not None)
        path = self.folder / f"part-{len(self._parts):05d}.npz"
        with storage_errors(path):
            np.savez(path, allow_pickle=False, **{name: getattr(part, name) for name in Shard.__dataclass_fields__})
        self._parts.append(ShardPart(path.name, len(part), len(part.numbers)))
        self._elements.update(np.unique(part.numbers).tolist())
        self._records, self._n_atoms = [], 0

    def finish(self) -> tuple[ShardIndex, Evidence]:
        """Write what is left and the index."""
        self._flush()
        index = ShardIndex(
            tuple(self._parts),
            tuple(sorted(self._elements)),
            dict(sorted(self._last.items())),
            by_frequency(self._reasons),
            by_frequency(self._oddities),
            by_frequency(self._passed_over),
            self._inventory.found(),
        )
        evidence = self._collector.evidence()
        path = self.folder / EVIDENCE_FILE
        with storage_errors(path):
            np.savez(path, allow_pickle=False, **{name: getattr(evidence, name) for name in _EVIDENCE})
        write_record(self.folder / INDEX_FILE, index)
        return index, evidence


_EVIDENCE = tuple(Evidence.__dataclass_fields__)


def write_quarantine(path: Path, bad: Iterable[BadRecord]) -> None:
    """Write one JSON line per record that was set aside."""
    with storage_errors(path), open(path, "w", encoding="utf-8") as stream:
        stream.writelines(canonical_json(to_plain(record)) + "\n" for record in bad)


def read_quarantine(folder: Path) -> Iterator[BadRecord]:
    """Yield the records a shard or a dataset set aside."""
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
            values = {name: arrays[name] if arrays[name].ndim else arrays[name].item() for name in _EVIDENCE}
        return read_record(ShardIndex, folder / INDEX_FILE), Evidence(**values)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise IntegrityError(f"{folder} is not a shard of this program: {error}.") from error


@contextmanager
def _part(path: Path) -> Iterator[Any]:
    """Open the arrays of a part of a shard that `open_shard` has checked."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"{path} is not a part of a shard: {error}.") from error


def load_part(path: Path, *names: str) -> list[NDArray[Any]]:
    """Read some arrays of a part of a shard.

    Raises
    ------
    IntegrityError
        When it cannot be read.
    """
    with _part(path) as arrays:
        return [arrays[name] for name in names]


def kept_degrees(path: Path) -> NDArray[np.uint16] | None:
    """Return the degrees of a part of a shard, None where it has none.

    Raises
    ------
    IntegrityError
        When it cannot be read.
    """
    with _part(path) as arrays:
        return np.asarray(arrays["degrees"]) if "degrees" in arrays.files else None


def read_shard(folder: Path) -> tuple[Shard, list[BadRecord]]:
    """Check a published shard and read all of it into memory.

    Raises
    ------
    IntegrityError
        When it is damaged or was never finished.
    """
    index, _ = open_shard(folder)
    parts = [Shard.load(folder / part.file) for part in index.parts]
    return concatenate([pack([]), *parts]), list(read_quarantine(folder))


def select(shard: Shard, order: NDArray[np.int64]) -> Shard:
    """Return the records ``order`` of a shard, in that order."""
    starts = np.cumsum(shard.natoms) - shard.natoms
    atoms = flat_ranges(starts[order], shard.natoms[order])
    return Shard(
        **{n: getattr(shard, n)[atoms if n in PER_ATOM else order] for n in Shard.__dataclass_fields__},
    )


def concatenate(shards: list[Shard]) -> Shard:
    """Join shards into one, in the order of the source, however it was dealt."""
    joined = Shard(**{n: np.concatenate([getattr(s, n) for s in shards]) for n in Shard.__dataclass_fields__})
    return select(joined, np.lexsort((joined.index, joined.member, joined.file_index)))
