"""Extended XYZ, several times faster than ASE's parser and equal to it.

The format: https://github.com/libAtoms/extxyz and, as far as files in use go, `ase.io.extxyz`. The usual spelling of a
comment line and of columns is parsed here; a frame with anything else (escapes, nested brackets, ``VEC`` lines, odd
property names) goes to ASE, so that what ASE reads is read, and equally. Values that nobody asks for are not parsed:
a virial that is no matrix does not cost a frame.

Beyond ASE: keys of the structure in other spellings (``lattice=``, ``cell=``, ``properties=``, ``PBC=``), which ASE
takes for metadata and the frame for a molecule; cells of three or six numbers; isotopes of hydrogen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from io import StringIO
from typing import Any

import numpy as np
import orjson
from ase.data import atomic_numbers
from ase.io.extxyz import UNPROCESSED_KEYS, key_val_str_to_dict, per_config_properties, read_xyz
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files.file_reader import Frame, Parse, RefusedError
from gfm_pipeline.apps.ingest.labels.known_keys import KeySet, KeySets
from gfm_pipeline.apps.ingest.readers.ase_atoms import (
    ENERGY_NAMES,
    FORCE_NAMES,
    STRUCTURE,
    atoms_frame,
    energy_name,
    energy_of,
    first,
)
from gfm_pipeline.apps.ingest.readers.extxyz_frames import cut
from gfm_pipeline.apps.ingest.readers.extxyz_spellings import respell, unusually_spelled
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
_LOGICAL = {"T": True, "F": False, "True": True, "False": False}
# ASE takes these columns for something else than an array of that name.
_SPECIAL = frozenset(
    {"positions", "numbers", "symbols", "charge", "charges", "initial_charges", *per_config_properties}
)
_END = " \0 "  # between lines that are split together
_VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))

Pairs = dict[str, "re.Match[str]"]


class UnusualError(Exception):
    """A frame the fast parser leaves to ASE."""


@dataclass(frozen=True)
class Column:
    """A property of atoms: its type (R, I, S, L) and the columns it takes."""

    kind: str
    first: int
    width: int

    @property
    def places(self) -> range:
        """The columns."""
        return range(self.first, self.first + self.width)


@dataclass(frozen=True)
class Rows:
    """The words of ``n`` lines of equally many, in one list: those of a line, then `_END`."""

    words: list[str]
    stride: int
    n: int

    @classmethod
    def split(cls, lines: Sequence[str], width: int) -> Rows:
        """Split lines of ``width`` words; one call for all of them takes half the time of one each.

        Raises
        ------
        UnusualError
            When a line has more or fewer.
        """
        text, n, stride = _END.join(lines), len(lines), width + 1
        words = text.split()
        if not n or len(words) != n * stride - 1 or text.count(_END.strip()) != n - 1:
            raise UnusualError
        if words[width::stride].count(_END.strip()) != n - 1:
            raise UnusualError
        return cls(words, stride, n)

    def take(self, columns: Sequence[int]) -> list[str]:
        """Return the words of some columns, line by line."""
        if len(columns) == 1:
            return self.words[columns[0] :: self.stride]
        found = [""] * (self.n * len(columns))
        for k, column in enumerate(columns):
            found[k :: len(columns)] = self.words[column :: self.stride]
        return found


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
    found = list(read_xyz(StringIO("".join(lines)), index=slice(0, 1)))
    if not found:
        raise ValueError("ASE finds no frame here")
    return atoms_frame(found[0])


def _usual(lines: Sequence[str]) -> Frame:
    pairs = _pairs(lines[1])
    if unusually_spelled(tuple(pairs)):
        raise UnusualError
    properties = pairs.pop("Properties", None)
    columns, width = _columns(_DEFAULT_PROPERTIES if properties is None else _text(properties))
    rows = Rows.split(lines[2:], width)
    if rows.n != int(lines[0]):
        raise UnusualError
    lattice, pbc = pairs.pop("Lattice", None), pairs.pop("pbc", None)
    cell = np.zeros((3, 3)) if lattice is None else _lattice(_text(lattice))
    find = partial(_find, columns, rows, pairs)
    keys = _keys(None if properties is None else _text(properties), columns, pairs, rows.n, find)
    try:
        pos, forces = _positions_and_forces(columns, rows, pairs, find)
        return Frame(
            numbers=_numbers(columns, rows),
            pos=pos,
            cell=cell,
            pbc=np.full(3, lattice is not None) if pbc is None else _periodic(_text(pbc)),
            energy=energy_of(keys, find),
            forces=forces,
            find=find,
            keys=keys,
        )
    except RefusedError:
        raise
    except (ValueError, OverflowError) as error:
        raise UnusualError from error  # ASE says what is wrong


def _keys(
    properties: str | None, columns: dict[str, Column], pairs: Pairs, natoms: int, find: Callable[[str], Any]
) -> KeySet:
    """Return the keys of a frame; values are looked at only where no frame before had the same names."""

    def items() -> Iterator[tuple[str, Any]]:
        for name in (*columns, *pairs):
            if name in STRUCTURE:
                continue
            try:
                yield name, find(name)
            except ValueError:
                yield name, "text"  # not what its name says, such as a virial of two numbers

    forces = next((name for name in FORCE_NAMES if name in columns or name in pairs), None)
    energy = energy_name([name for name in ENERGY_NAMES if name in pairs or name in columns], forces is not None)
    return _KEY_SETS.get((properties, tuple(pairs)), items, natoms, energy, forces)


def _positions_and_forces(
    columns: dict[str, Column], rows: Rows, pairs: Pairs, find: Callable[[str], Any]
) -> tuple[NDArray[Any], Any]:
    """Return positions and what the format calls forces, where it can be both from one pass."""
    pos, forces = columns["pos"], next((columns.get(n) for n in FORCE_NAMES if n in columns or n in pairs), None)
    if forces is not None and (forces.kind, forces.width) == ("R", 3):
        both = _floats(rows.take([*pos.places, *forces.places])).reshape(rows.n, 6)
        return both[:, :3], both[:, 3:]
    return _values(pos, rows), first(find, FORCE_NAMES)


def _pairs(comment: str) -> Pairs:
    text, at, pairs = comment.strip(), 0, {}
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            raise UnusualError
        pairs[match[1]] = match
        at = match.end()
    return pairs


def _text(match: re.Match[str]) -> str:
    """Return the value of a pair without its delimiters."""
    return match[match.lastindex or 1] if (match.lastindex or 1) > 1 else "T"


@lru_cache(maxsize=256)
def _columns(properties: str) -> tuple[dict[str, Column], int]:
    fields = properties.split(":")
    columns: dict[str, Column] = {}
    first = 0
    if len(fields) % 3:
        raise UnusualError
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        if name in columns or name in _SPECIAL or kind not in ("R", "I", "S", "L") or not width.isdecimal():
            raise UnusualError
        columns[name] = Column(kind, first, int(width))
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


def _lattice(text: str) -> NDArray[np.float64]:
    try:
        return np.array([float(token) for token in text.replace(",", " ").split()]).reshape(3, 3)
    except ValueError as error:
        raise UnusualError from error


def _periodic(text: str) -> NDArray[np.bool_]:
    flags = [_PBC.get(token) for token in text.replace(",", " ").split()]
    if None in flags or len(flags) not in (1, 3):
        raise UnusualError
    return np.array(flags * 3 if len(flags) == 1 else flags, dtype=bool)


def _numbers(columns: dict[str, Column], rows: Rows) -> NDArray[Any]:
    if "Z" in columns:
        return _values(columns["Z"], rows)
    symbols = rows.take(columns["species"].places)
    try:
        return np.fromiter(map(_NUMBER_OF.__getitem__, symbols), np.int64, rows.n)
    except KeyError:
        return np.fromiter(map(number_of, symbols), np.int64, rows.n)


def _values(column: Column, rows: Rows) -> NDArray[Any]:
    """Return a property [N] or [N, width], in the types ASE gives it."""
    words = rows.take(column.places)
    if column.kind == "R":
        array = _floats(words)
    elif column.kind == "I":
        array = np.array(list(map(int, words)), dtype=np.intc)
    elif column.kind == "L":
        array = np.array(list(map(_LOGICAL.get, words)), dtype=bool)
    else:
        array = np.array(words, dtype=object)
    return array if column.width == 1 else array.reshape(rows.n, column.width)


def _floats(words: list[str]) -> NDArray[np.float64]:
    """Return numbers as `float` reads them; orjson reads most spellings, correctly rounded, faster."""
    joined = ",".join(words)
    if '"' not in joined and "u" not in joined and "s" not in joined:  # no string, null, true or false
        with suppress(ValueError, TypeError):  # a bracket in a word would make a list
            numbers = orjson.loads(f"[{joined}]")
            if len(numbers) == len(words):  # a comma in a word would make two
                return np.fromiter(numbers, np.float64, len(numbers))
    return np.array(list(map(float, words)))


def _find(columns: dict[str, Column], rows: Rows, pairs: Pairs, name: str) -> Any:
    """Return the label or metadata of a name, as ASE parses it."""
    if name in columns and name not in ("pos", "species", "Z", "move_mask"):
        return _values(columns[name], rows)
    match = pairs.get(name)
    if match is None:
        return None
    text = _text(match)
    if _FLOAT.fullmatch(text) and name.lower() not in UNPROCESSED_KEYS:
        return float(text) if not text.lstrip("+-").isdecimal() else int(text)
    if _WORD.fullmatch(text) and text.lower() not in _NO_WORDS:
        return text
    value = key_val_str_to_dict(match[0])[name]
    return value[_VOIGT] if name == "stress" and np.shape(value) == (3, 3) else value
