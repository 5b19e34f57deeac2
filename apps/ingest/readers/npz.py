"""NumPy archives of the conformers of one molecule or crystal.

Layouts in use: MD17 and sGDML, http://www.sgdml.org (``z`` [N], ``R`` [F, N, 3], ``E`` [F] or [F, 1], ``F``
[F, N, 3]); rMD17, https://figshare.com/articles/dataset/12672038 (``nuclear_charges``, ``coords``, ``energies``,
``forces``); archives of others with plain names. Atomic numbers are [N], or [F, N] with 0 where there is no atom. Units
are those of the file: MD17 and rMD17 are in kcal/mol. Pickled arrays are not read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.labels.known_keys import KeySet, KeySets
from gfm_pipeline.core.contracts.options import NpzOptions

# Names by what they stand for, the more telling first.
NAMES: dict[str, tuple[str, ...]] = {
    "numbers": ("nuclear_charges", "atomic_numbers", "numbers", "charges", "z", "Z", "species"),
    "pos": ("coords", "coordinates", "positions", "pos", "R", "xyz"),
    "energy": ("energies", "energy", "E", "total_energy"),
    "forces": ("forces", "force", "F"),
    "cell": ("cell", "cells", "lattice", "box"),
    "pbc": ("pbc",),
}


class NpzReader(FileReader):
    """Reads archives; what else is in one, by frame or for all of them, is metadata."""

    def frames(self, part: InputFile, options: NpzOptions) -> Iterator[Parse]:  # noqa: ARG002
        """Yield the frames."""
        with np.load(_archive(part), allow_pickle=False) as archive:
            arrays = _NpzArrays(archive)
            for index in range(arrays.n):
                yield partial(arrays.frame, index)

    def length(self, part: InputFile, options: NpzOptions) -> int | None:  # noqa: ARG002
        """Return the number of frames."""
        with np.load(_archive(part), allow_pickle=False) as archive:
            return _NpzArrays(archive).n


def _archive(part: InputFile) -> Any:
    path = part.path()
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a NumPy archive (.npz), or it is cut short")
    return path


class _NpzArrays:
    """Arrays of an archive, each read at its first use."""

    def __init__(self, archive: Mapping[str, Any]) -> None:
        self._archive = archive
        self._read: dict[str, NDArray[Any]] = {}
        self._key_sets = KeySets()
        found = {what: next((n for n in names if n in archive), None) for what, names in NAMES.items()}
        missing = next((what for what in ("numbers", "pos") if found[what] is None), None)
        if missing is not None:
            raise ValueError(f"no array is named {' or '.join(NAMES[missing])}; the file holds {', '.join(archive)}")
        self._names = {what: name for what, name in found.items() if name is not None}
        positions = self._array(self._names["pos"])
        if positions.ndim not in (2, 3):
            raise ValueError(f"{self._names['pos']} has the shape {positions.shape}, not frames, atoms, 3")
        self._single = positions.ndim == 2
        self.n = 1 if self._single else len(positions)

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self._read:
            self._read[name] = np.asarray(self._archive[name])
        return self._read[name]

    def _of_frame(self, what: str, index: int, ndim: int) -> Any:
        """Return an array of one frame, which has ``ndim`` axes; an array of that many is of all frames."""
        if what not in self._names:
            return None
        array = self._array(self._names[what])
        return array if array.ndim == ndim or self._single else array[index]

    def frame(self, index: int) -> Frame:
        """Return one frame."""
        numbers = np.ravel(self._of_frame("numbers", index, 1))
        real = numbers != 0  # frames of fewer atoms are padded
        forces, cell = self._of_frame("forces", index, 2), self._of_frame("cell", index, 2)
        pbc = self._of_frame("pbc", index, 1)
        return Frame(
            numbers=numbers[real],
            pos=np.asarray(self._of_frame("pos", index, 2))[real],
            cell=np.zeros((3, 3)) if cell is None else np.reshape(cell, (3, 3)),
            pbc=np.full(3, cell is not None) if pbc is None else np.broadcast_to(pbc, 3),
            energy=self._find("energy", index),
            forces=None if forces is None else np.asarray(forces)[real],
            find=partial(self._metadata, index),
            keys=self._keys(index, int(real.sum())),
        )

    def _keys(self, index: int, natoms: int) -> KeySet:
        """Return the arrays of the archive that are not of the structure; values are looked at of the first frame."""
        structure = {name for what, name in self._names.items() if what in ("numbers", "pos", "cell", "pbc")}

        def items() -> Iterator[tuple[str, Any]]:
            for name in self._archive:
                if name not in structure:
                    yield name, self._metadata(index, name)

        return self._key_sets.get("all", items, natoms, self._names.get("energy"), self._names.get("forces"))

    def _find(self, what: str, index: int) -> Any:
        return None if what not in self._names else self._metadata(index, self._names[what])

    def _metadata(self, index: int, name: str) -> Any:
        """Return what a name stands for in one frame: numbers and texts as such, None where there is none."""
        if name not in self._archive:
            return None
        array = self._array(name)
        value = array[index] if array.ndim and len(array) == self.n else array
        return value.item() if np.size(value) == 1 else value
