"""The artefact between reading and assembling: one ``.npz`` of flat float64 arrays, no pickles."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.contracts.data import BadRecord
from gfm_pipeline.apps.dataset.columns import flat_ranges
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.common.errors import IntegrityError
from gfm_pipeline.common.publish import storage_errors, verify
from gfm_pipeline.common.records import canonical_json, from_plain, to_plain

RECORDS_FILE = "records.npz"
QUARANTINE_FILE = "quarantine.jsonl"


@dataclass(frozen=True)
class Shard:
    """G records with N atoms, eV and Angstrom, float64.

    ``groups`` are names [G]; ``file_index``, ``member`` and ``index`` [G] say where a record comes
    from: path of the source, member of an archive, position in it.
    """

    numbers: NDArray[np.uint8]
    pos: NDArray[np.float64]
    forces: NDArray[np.float64]
    energy: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    natoms: NDArray[np.int64]
    groups: NDArray[np.str_]
    file_index: NDArray[np.int64]
    member: NDArray[np.int64]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.natoms)


def pack(records: list[Record]) -> Shard:
    """Join checked records (energy, forces and group present)."""

    def atoms(rows: list[Any]) -> NDArray[np.float64]:
        return np.concatenate([np.zeros((0, 3)), *rows]).astype(np.float64)

    return Shard(
        numbers=np.concatenate([np.zeros(0, np.uint8), *[r.numbers for r in records]]).astype(np.uint8),
        pos=atoms([r.pos for r in records]),
        forces=atoms([r.forces for r in records]),
        energy=np.array([r.energy for r in records], dtype=np.float64),
        cell=np.array([r.cell for r in records], dtype=np.float64).reshape(-1, 3, 3),
        pbc=np.array([r.pbc for r in records], dtype=np.bool_).reshape(-1, 3),
        natoms=np.array([len(r.numbers) for r in records], dtype=np.int64),
        groups=np.array([str(r.group) for r in records], dtype=np.str_),
        file_index=np.array([r.file_index for r in records], dtype=np.int64),
        member=np.array([r.member for r in records], dtype=np.int64),
        index=np.array([r.index for r in records], dtype=np.int64),
    )


def write_quarantine(path: Path, bad: Iterable[BadRecord]) -> None:
    """Write one JSON line a record that was set aside."""
    with storage_errors(path), open(path, "w", encoding="utf-8") as stream:
        stream.writelines(canonical_json(to_plain(record)) + "\n" for record in bad)


def write_shard(folder: Path, shard: Shard, bad: list[BadRecord]) -> None:
    """Write the files of a shard into ``folder``."""
    path = folder / RECORDS_FILE
    with storage_errors(path):
        np.savez(path, allow_pickle=False, **{name: getattr(shard, name) for name in Shard.__dataclass_fields__})
    write_quarantine(folder / QUARANTINE_FILE, bad)


def read_shard(folder: Path) -> tuple[Shard, list[BadRecord]]:
    """Check a published shard against its manifest, digests included, and read it.

    Raises
    ------
    IntegrityError
        When it is damaged or was never finished.
    """
    verify(folder, digests=True)
    try:
        with np.load(folder / RECORDS_FILE, allow_pickle=False) as arrays:
            shard = Shard(**{name: arrays[name] for name in Shard.__dataclass_fields__})
        lines = (folder / QUARANTINE_FILE).read_text(encoding="utf-8").splitlines()
        return shard, [from_plain(BadRecord, json.loads(line)) for line in lines]
    except (OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"{folder} is not a shard of this program: {error}.") from error


def concatenate(shards: list[Shard]) -> Shard:
    """Join shards into one, in the order of the source, however it was dealt."""
    joined = {name: np.concatenate([getattr(s, name) for s in shards]) for name in Shard.__dataclass_fields__}
    order = np.lexsort((joined["index"], joined["member"], joined["file_index"]))
    natoms, starts = joined["natoms"], np.cumsum(joined["natoms"]) - joined["natoms"]
    atoms = flat_ranges(starts[order], natoms[order])
    per_atom = {"numbers", "pos", "forces"}
    return Shard(**{name: array[atoms if name in per_atom else order] for name, array in joined.items()})
