"""Tables of structures that pandas wrote as JSON, in any orientation, also as lines; compressed or not.

Columns are found by the names in use: ``ase_atoms`` (what `ase.Atoms.todict` gives, as tables of pacemaker have it)
or numbers, positions and cell apart (ColabFit: ``atomic_numbers``, ``positions``, ``cell``, ``pbc``, ``energy``,
``atomic_forces``, https://materials.colabfit.org). Structures of pymatgen are read by the reader pymatgen-json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files import json_orients
from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.labels.known_keys import KeySet, KeySets
from gfm_pipeline.apps.ingest.readers.species import number_of
from gfm_pipeline.core.contracts.options import JsonTableOptions

ATOMS = ("ase_atoms", "atoms")
NAMES: dict[str, tuple[str, ...]] = {
    "numbers": ("atomic_numbers", "numbers", "nuclear_charges", "z", "Z", "species", "symbols", "elements"),
    "pos": ("positions", "coordinates", "coords", "pos", "R", "xyz"),
    "cell": ("cell", "lattice", "lattice_vectors", "box"),
    "pbc": ("pbc",),
    "energy": ("energy", "total_energy", "energies", "E", "free_energy"),
    "forces": ("forces", "atomic_forces", "force", "F"),
}
_COLUMNS = frozenset((*ATOMS, "structure", *(name for names in NAMES.values() for name in names)))

_STRUCTURE = frozenset((*ATOMS, "structure", *(n for what in ("numbers", "pos", "cell", "pbc") for n in NAMES[what])))
_KEY_SETS = KeySets()


class JsonTableReader(FileReader):
    """Reads one record per row; every other column is metadata."""

    def frames(self, part: InputFile, options: JsonTableOptions) -> Iterator[Parse]:  # noqa: ARG002
        """Yield the rows."""
        with part.binary() as stream:
            for row in json_orients.rows(stream, part.suffix in (".jsonl", ".ndjson"), _COLUMNS):
                yield partial(_parse, row)


def _parse(load: json_orients.Row) -> Frame:
    return frame_of_row(load())


def frame_of_row(row: Any) -> Frame:
    """Return the structure and labels of a row of a table.

    Raises
    ------
    ValueError
        When it is not a mapping, or has no atomic numbers or positions.
    """
    if not isinstance(row, Mapping):
        raise ValueError("the row is not a mapping of columns to values")
    atoms: Mapping[str, Any] = next((row[name] for name in ATOMS if isinstance(row.get(name), Mapping)), {})
    places = (row, atoms)
    numbers, pos, cell = (_array(_named(places, what)) for what in ("numbers", "pos", "cell"))
    if numbers is None or pos is None:
        missing = NAMES["numbers" if numbers is None else "pos"]
        raise ValueError(f"no column is named {' or '.join((*ATOMS, *missing))}; there are {', '.join(map(str, row))}")
    if numbers.dtype.kind in "UO":
        numbers = np.array([number_of(str(symbol)) for symbol in numbers.tolist()])
    box = np.zeros((3, 3)) if cell is None else cell.reshape(3, 3) if cell.size == 9 else np.diag(cell)
    pbc = _array(_named(places, "pbc"))
    forces = _array(_named(places, "forces"))
    return Frame(
        numbers=numbers,
        pos=pos.reshape(-1, 3),
        cell=box,
        pbc=np.full(3, bool(box.any())) if pbc is None else np.broadcast_to(pbc.astype(bool), 3),
        energy=_named(places, "energy"),
        forces=None if forces is None else forces.reshape(-1, 3),
        find=partial(_find, places),
        keys=_keys(places, len(numbers)),
    )


def _keys(places: tuple[Mapping[str, Any], ...], natoms: int) -> KeySet:
    """Return the columns that are not of the structure."""
    values = {name: _find(places, name) for place in places for name in place if name not in _STRUCTURE}
    names = ((n for n in NAMES[what] if values.get(n) is not None) for what in ("energy", "forces"))
    return _KEY_SETS.of(values, natoms, *(next(some, None) for some in names))


def _named(places: tuple[Mapping[str, Any], ...], what: str) -> Any:
    return next((value for name in NAMES[what] if (value := _find(places, name)) is not None), None)


def _find(places: tuple[Mapping[str, Any], ...], name: str) -> Any:
    return next((place[name] for place in places if place.get(name) is not None), None)


def _array(value: Any) -> NDArray[Any] | None:
    """Return a list, or an array as ASE writes it in JSON, as an array."""
    if isinstance(value, Mapping):
        if "array" in value:  # a cell
            return _array(value["array"])
        shape, kind, flat = value["__ndarray__"]
        return np.array(flat, dtype=str(kind)).reshape(shape)
    return None if value is None else np.array(value)
