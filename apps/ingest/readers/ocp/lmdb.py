"""LMDB files of the Open Catalyst Project: a pickled PyTorch Geometric ``Data`` per record.

The layout: https://fair-chem.github.io/core/datasets/oc20.html and fairchem's ``preprocess_ef.py``. Keys are ``0``,
``1``, ... and ``length``; fields are ``pos`` [N, 3], ``atomic_numbers`` [N], ``cell`` [1, 3, 3], ``y`` (energy, eV),
``force`` [N, 3] (eV/Angstrom), ``sid``, ``fid``, and graph features. Neither PyTorch nor PyTorch Geometric is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.files.lmdb_file import LmdbFile
from gfm_pipeline.apps.ingest.files.safe_pickle import fields
from gfm_pipeline.apps.ingest.labels.known_keys import KeySets
from gfm_pipeline.core.contracts.options import OcpLmdbOptions

_STRUCTURE = frozenset({"pos", "atomic_numbers", "cell", "natoms", "edge_index", "cell_offsets", "distances"})
_NO_RECORDS = {b"length", b"metadata"}


_KEY_SETS = KeySets()


class OcpLmdbReader(FileReader):
    """Reads S2EF files; the energy is whatever the file was made with, total or of adsorption. Metadata: all fields."""

    default_group = "sid"

    def frames(self, part: InputFile, options: OcpLmdbOptions) -> Iterator[Parse]:  # noqa: ARG002
        """Yield the records in the order of their numbers."""
        with LmdbFile(part.path()) as file:
            for index in range(_length(file)):
                yield partial(_frame, file, str(index).encode())

    def length(self, part: InputFile, options: OcpLmdbOptions) -> int | None:  # noqa: ARG002
        """Return the number of records."""
        with LmdbFile(part.path()) as file:
            return _length(file)


def _length(file: LmdbFile) -> int:
    packed = file.get(b"length")
    if packed is not None:
        return file.claimed(int(fields(packed)))
    return file.entries - sum(file.get(key) is not None for key in _NO_RECORDS)


def _scalar(value: Any) -> Any:
    """Return arrays of one number as that number."""
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value


def _frame(file: LmdbFile, key: bytes) -> Frame:
    packed = file.get(key)
    if packed is None:
        raise ValueError(f"record {key.decode()} is missing")
    data = fields(packed)
    cell = data.get("cell")
    return Frame(
        numbers=np.asarray(data["atomic_numbers"]).astype(np.int64).ravel(),
        pos=np.asarray(data["pos"]),
        cell=np.zeros((3, 3)) if cell is None else np.asarray(cell).reshape(3, 3),
        pbc=np.full(3, cell is not None),
        energy=_scalar(data.get("y")),
        forces=data.get("force"),
        find=lambda name: _scalar(data.get(name)),
        keys=_KEY_SETS.of(
            {k: _scalar(v) for k, v in data.items() if k not in _STRUCTURE}, len(data["pos"]), "y", "force"
        ),
    )
