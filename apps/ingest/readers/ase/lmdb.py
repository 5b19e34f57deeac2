"""ASE databases in LMDB (``.aselmdb``): OMat24, OMol25 and other data sets of FAIR chemistry.

The layout: https://gitlab.com/ase/ase-db-backends (``aselmdb.py``). Keys are row numbers as text, values are zlib of
ASE's JSON of a row; ``nextid``, ``deleted_ids`` and ``metadata`` are no rows. This module does not use that package,
which installs database drivers and opens files for writing, because shared copies may be read-only.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase.io.jsonio import decode

from gfm_pipeline.apps.ingest.files.file_reader import Frame, Parse
from gfm_pipeline.apps.ingest.files.lmdb_file import LmdbFile
from gfm_pipeline.apps.ingest.labels.known_keys import KeySets, unit_statements
from gfm_pipeline.apps.ingest.readers.ase.atoms import ENERGY_NAMES, energy_name, energy_of

# Fields of a row other than labels and metadata.
_NO_LABELS = frozenset(
    {
        "numbers", "positions", "cell", "pbc", "unique_id", "ctime", "mtime", "user", "calculator",
        "calculator_parameters", "constraints", "data", "key_value_pairs", "natoms", "mass", "tags", "momenta",
    }
)  # fmt: skip
_KEY_SETS = KeySets()


def decoded(text: str) -> Any:
    """Decode ASE's JSON.

    Raises
    ------
    ValueError
        When an array claims another number of values than it lists, since ASE would allocate the claimed size.
    """

    def check(found: dict[str, Any]) -> None:
        if "__ndarray__" in found:
            shape, dtype, values = found["__ndarray__"]
            each = 2 if np.dtype(dtype).kind == "c" else 1
            if math.prod(map(int, shape)) * each != len(values):
                raise ValueError(f"an array of shape {tuple(shape)} lists {len(values):,} values")

    json.loads(text, object_hook=check)
    return decode(text)


class AseLmdb:
    """One database, open for reading."""

    def __init__(self, path: Path) -> None:
        self._file = LmdbFile(path)

    def __enter__(self) -> AseLmdb:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def __len__(self) -> int:
        return sum(1 for _ in self._rows())

    def _rows(self) -> Iterator[bytes]:
        """Yield the keys of rows in the order of their numbers."""
        following, deleted = self._header("nextid"), self._header("deleted_ids")
        if following is None:
            raise ValueError("no nextid: this is not an ASE database")
        deleted_rows = set(deleted or ())
        self._file.claimed(int(following) - 1 - len(deleted_rows))
        return (str(number).encode() for number in range(1, int(following)) if number not in deleted_rows)

    def _header(self, name: str) -> Any:
        value = self._file.get(name.encode())
        return None if value is None else json.loads(zlib.decompress(value))

    def frames(self) -> Iterator[Parse]:
        """Yield the rows."""
        stated = unit_statements(self._header("metadata") or {})
        for key in self._rows():
            yield partial(self._frame, key, stated)

    def _frame(self, key: bytes, stated: dict[str, str]) -> Frame:
        value = self._file.get(key)
        if value is None:
            raise ValueError(f"row {key.decode()} is missing")
        row: dict[str, Any] = decoded(zlib.decompress(value).decode())
        extra = {**stated, **(row.get("data") or {}), **(row.get("key_value_pairs") or {})}

        def find(name: str) -> Any:
            return row[name] if row.get(name) is not None else extra.get(name)

        labels = {name: value for name, value in {**extra, **row}.items() if name not in _NO_LABELS}
        with_forces = find("forces") is not None
        keys = _KEY_SETS.get(
            tuple(labels),
            labels.items,
            len(row["numbers"]),
            energy_name([name for name in ENERGY_NAMES if row.get(name) is not None], with_forces),
            "forces" if with_forces else None,
        )
        return Frame(
            numbers=np.asarray(row["numbers"]),
            pos=np.asarray(row["positions"]),
            cell=np.asarray(row.get("cell", np.zeros((3, 3)))),
            pbc=np.asarray(row.get("pbc", [False] * 3), dtype=bool),
            energy=energy_of(keys, find),
            forces=find("forces"),
            find=find,
            keys=keys,
        )
