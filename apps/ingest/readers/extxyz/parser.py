"""Extended XYZ, several times faster than ASE's parser and equal to it.

The format: https://github.com/libAtoms/extxyz, and `ase.io.extxyz` for what files in use contain. This module parses
the usual spelling of comment lines and columns. A frame with anything else (escapes, nested brackets, ``VEC`` lines,
odd property names) goes to ASE, so every frame that ASE reads gives the same arrays here. Values that the source does
not use are not parsed: a virial that is not a matrix does not cost a frame.

In addition to ASE, this module reads keys of the structure in other spellings (``lattice=``, ``cell=``,
``properties=``, ``PBC=``), which ASE takes for metadata, so that it reads the frame as a molecule; cells of three or
six numbers; and isotopes of hydrogen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from io import StringIO
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from ase.io.extxyz import UNPROCESSED_KEYS, key_val_str_to_dict, per_config_properties, read_xyz
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files.file_reader import Frame, Parse, RefusedError
from gfm_pipeline.apps.ingest.labels.known_keys import KeySet, KeySets
from gfm_pipeline.apps.ingest.readers.ase.atoms import (
    ENERGY_NAMES,
    FORCE_NAMES,
    STRUCTURE,
    atoms_frame,
    energy_name,
    energy_of,
    first,
)
from gfm_pipeline.apps.ingest.readers.extxyz.columns import PropertyColumn, PropertyRows, UnusualError, floats, values
from gfm_pipeline.apps.ingest.readers.extxyz.frames import cut
from gfm_pipeline.apps.ingest.readers.extxyz.spellings import respell, unusually_spelled, without_isotopes
from gfm_pipeline.apps.ingest.readers.species import number_of

_KEY_SETS = KeySets()
_WORD = re.compile(r"[A-Za-z_][\w.+/-]*")
_NO_WORDS = frozenset({"t", "f", "true", "false", "nan", "inf", "infinity"})
_DEFAULT_PROPERTIES = "species:S:1:pos:R:3"
_PLAIN = r"""[^\s="'{}\[\]\\]+"""
_PAIR = re.compile(rf"""\s*({_PLAIN})(?:=(?:"([^"\\]+)"|\[([^\]\\]+)\]|({_PLAIN})))?(?=\s|$)""")
_FLOAT = re.compile(r"[+-]?(?:\d+\.\d*|\.?\d+)(?:[eE][+-]?\d+)?")
_PBC = {"T": True, "F": False, "true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}
_NUMBER_OF = {symbol: z for symbol, z in atomic_numbers.items() if symbol.capitalize() == symbol}
# ASE takes these columns for something else than an array of that name.
_SPECIAL = frozenset(
    {"positions", "numbers", "symbols", "charge", "charges", "initial_charges", *per_config_properties}
)
_OF_STRUCTURE = frozenset({"Properties", "Lattice", "pbc"})
_VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))

KeyValues = dict[str, "re.Match[str]"]


@dataclass(frozen=True, eq=False)
class FrameLayout:
    """What frames of one make share: the properties and the keys of their comment lines.

    Attributes
    ----------
    columns, width
        The properties of atoms by name, and how many words a line has.
    labels
        Keys of the comment line other than those of the structure.
    energy, forces
        Names of the energy and the forces, as `KeySet` has them.
    both
        Columns of positions and forces, where both are three numbers; else empty.
    """

    columns: dict[str, PropertyColumn]
    width: int
    labels: tuple[str, ...]
    energy: str | None
    forces: str | None
    both: tuple[int, ...]


def frames(lines: Iterator[str]) -> Iterator[Parse]:
    """Cut the lines of a file into frames; each function returned parses one, or says why it cannot be read."""
    for found in cut(lines):
        yield partial(_refuse, found) if isinstance(found, str) else partial(parse, found)


def _refuse(reason: str) -> Frame:
    raise ValueError(reason)


def parse(lines: Sequence[str]) -> Frame:
    """Parse one frame: the line with the number of atoms, the comment line, the atoms."""
    try:
        return _usual(lines)
    except UnusualError:
        respelled = respell(lines[1])
        if respelled == lines[1]:
            return _with_ase(lines)
    lines = [lines[0], respelled, *lines[2:]]
    try:
        return _usual(lines)
    except UnusualError:
        return _with_ase(lines)


def _with_ase(lines: Sequence[str]) -> Frame:
    found = list(read_xyz(StringIO("".join(without_isotopes(lines))), index=slice(0, 1)))
    if not found:
        raise ValueError("ASE finds no frame here")
    return atoms_frame(found[0])


def _usual(lines: Sequence[str]) -> Frame:
    pairs = _pairs(lines[1])
    properties = pairs.get("Properties")
    layout = _layout(None if properties is None else _text(properties), tuple(pairs))
    columns = layout.columns
    rows = PropertyRows.split(lines[2:], layout.width)
    if rows.n != int(lines[0]):
        raise UnusualError
    lattice, pbc = pairs.get("Lattice"), pairs.get("pbc")
    cell = np.zeros((3, 3)) if lattice is None else _lattice(_text(lattice)).copy()
    find = partial(_find, columns, rows, pairs)
    keys = _KEY_SETS.known(layout) or _keys(layout, rows.n, find)
    try:
        pos, forces = _positions_and_forces(layout, rows, find)
        return Frame(
            numbers=_numbers(columns, rows),
            pos=pos,
            cell=cell,
            pbc=_periodic("T" if lattice is not None else "F").copy() if pbc is None else _periodic(_text(pbc)).copy(),
            energy=energy_of(keys, find),
            forces=forces,
            find=find,
            keys=keys,
        )
    except RefusedError:
        raise
    except (ValueError, OverflowError) as error:
        raise UnusualError from error  # ASE says what is wrong


@lru_cache(maxsize=512)
def _layout(properties: str | None, names: tuple[str, ...]) -> FrameLayout:
    """Return what the properties and the keys of a comment line decide.

    Raises
    ------
    UnusualError
        When a frame of this make is left to ASE.
    """
    if unusually_spelled(names):
        raise UnusualError
    columns, width = _columns(_DEFAULT_PROPERTIES if properties is None else properties)
    labels = tuple(name for name in names if name not in _OF_STRUCTURE)
    forces = next((name for name in FORCE_NAMES if name in columns or name in labels), None)
    energy = energy_name([name for name in ENERGY_NAMES if name in labels or name in columns], forces is not None)
    pair = [columns["pos"], columns.get(forces or "")]
    vectors = all(column is not None and (column.kind, column.width) == ("R", 3) for column in pair)
    both = tuple(place for column in pair if column is not None for place in column.places) if vectors else ()
    return FrameLayout(columns, width, labels, energy, forces, both)


def _keys(layout: FrameLayout, natoms: int, find: Callable[[str], Any]) -> KeySet:
    """Return the keys of a frame of a make that was not met before, by its values."""

    def items() -> Iterator[tuple[str, Any]]:
        for name in (*layout.columns, *layout.labels):
            if name in STRUCTURE:
                continue
            try:
                yield name, find(name)
            except ValueError:
                yield name, "text"  # not what its name says, such as a virial of two numbers

    return _KEY_SETS.get(layout, items, natoms, layout.energy, layout.forces)


def _positions_and_forces(
    layout: FrameLayout, rows: PropertyRows, find: Callable[[str], Any]
) -> tuple[NDArray[Any], Any]:
    """Return positions and what the format calls forces, where it can be both from one pass."""
    if layout.both:
        both = floats(rows.take(layout.both)).reshape(rows.n, 6)
        return both[:, :3], both[:, 3:]
    return values(layout.columns["pos"], rows), None if layout.forces is None else first(find, FORCE_NAMES)


def _pairs(comment: str) -> KeyValues:
    text, end, pairs = comment.strip(), 0, {}
    for match in iter(_PAIR.scanner(text).match, None):  # type: ignore[attr-defined]
        pairs[match[1]] = match
        end = match.end()
    if end < len(text):
        raise UnusualError
    return pairs


def _text(match: re.Match[str]) -> str:
    """Return the value of a pair without its delimiters."""
    group = match.lastindex or 1
    return match[group] if group > 1 else "T"


@lru_cache(maxsize=256)
def _columns(properties: str) -> tuple[dict[str, PropertyColumn], int]:
    fields = properties.split(":")
    columns: dict[str, PropertyColumn] = {}
    first = 0
    if len(fields) % 3:
        raise UnusualError
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        if name in columns or name in _SPECIAL or kind not in ("R", "I", "S", "L") or not width.isdecimal():
            raise UnusualError
        columns[name] = PropertyColumn(kind, first, int(width))
        first += int(width)
    for name, allowed in (("pos", {("R", 3)}), ("species", {("S", 1)}), ("Z", {("I", 1)})):
        if name in columns and (columns[name].kind, columns[name].width) not in allowed:
            raise UnusualError
    mask = columns.get("move_mask")
    if "pos" not in columns or not columns.keys() & {"species", "Z"} or any(not c.width for c in columns.values()):
        raise UnusualError
    if mask is not None and mask.width not in (1, 3):
        raise UnusualError
    return columns, first


@lru_cache(maxsize=256)  # frames of a trajectory have one cell; callers copy it
def _lattice(text: str) -> NDArray[np.float64]:
    try:
        return np.array([float(token) for token in text.replace(",", " ").split()]).reshape(3, 3)
    except ValueError as error:
        raise UnusualError from error


@lru_cache(maxsize=256)
def _periodic(text: str) -> NDArray[np.bool_]:
    flags = [_PBC.get(token) for token in text.replace(",", " ").split()]
    if None in flags or len(flags) not in (1, 3):
        raise UnusualError
    return np.array(flags * 3 if len(flags) == 1 else flags, dtype=bool)


def _numbers(columns: dict[str, PropertyColumn], rows: PropertyRows) -> NDArray[Any]:
    if "Z" in columns:
        return values(columns["Z"], rows)
    symbols = rows.take(columns["species"].places)
    try:
        return np.fromiter(map(_NUMBER_OF.__getitem__, symbols), np.int64, rows.n)
    except KeyError:
        return np.fromiter(map(number_of, symbols), np.int64, rows.n)


def _find(columns: dict[str, PropertyColumn], rows: PropertyRows, pairs: KeyValues, name: str) -> Any:
    """Return the label or metadata of a name, as ASE parses it."""
    if name in columns and name not in ("pos", "species", "Z", "move_mask"):
        return values(columns[name], rows)
    match = pairs.get(name)
    if match is None or name in _OF_STRUCTURE:
        return None
    text = _text(match)
    if _FLOAT.fullmatch(text) and name.lower() not in UNPROCESSED_KEYS:
        return float(text) if not text.lstrip("+-").isdecimal() else int(text)
    if _WORD.fullmatch(text) and text.lower() not in _NO_WORDS:
        return text
    value = key_val_str_to_dict(match[0])[name]
    return value[_VOIGT] if name == "stress" and np.shape(value) == (3, 3) else value
