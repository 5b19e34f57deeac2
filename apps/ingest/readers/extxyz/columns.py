"""The words of the lines of one extended XYZ frame, and the properties of atoms in their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import error as StructError
from struct import pack_into
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

_LOGICAL = {"T": True, "F": False, "True": True, "False": False}
_END = " \0 "  # between lines that are split together


class UnusualError(Exception):
    """A frame the fast parser leaves to ASE."""


@dataclass(frozen=True)
class PropertyColumn:
    """A property of atoms: its type (R, I, S, L) and the columns it takes."""

    kind: str
    first: int
    width: int

    @property
    def places(self) -> range:
        """The columns."""
        return range(self.first, self.first + self.width)


class PropertyRows(NamedTuple):
    """The words of ``n`` lines of equally many, in one list: those of a line, then `_END`."""

    words: list[str]
    stride: int
    n: int

    @classmethod
    def split(cls, lines: Sequence[str], width: int) -> PropertyRows:
        """Split lines of ``width`` words; one call for all of them takes half the time of one each.

        Raises
        ------
        UnusualError
            When a line has more or fewer.
        """
        n, stride = len(lines), width + 1
        words = _END.join(lines).split()
        if not n or len(words) != n * stride - 1 or _END.strip() in "".join(lines):
            raise UnusualError
        if words[width::stride].count(_END.strip()) != n - 1:
            raise UnusualError
        return cls(words, stride, n)

    def take(self, columns: Sequence[int]) -> list[str]:
        """Return the words of some columns, line by line."""
        if len(columns) == 1:
            return self.words[columns[0] :: self.stride]
        if others := _others(tuple(columns), self.stride):
            found = self.words.copy()
            for stride, column in others:
                del found[column::stride]
            return found
        found = [""] * (self.n * len(columns))
        for k, column in enumerate(columns):
            found[k :: len(columns)] = self.words[column :: self.stride]
        return found


@lru_cache(maxsize=256)
def _others(columns: tuple[int, ...], stride: int) -> tuple[tuple[int, int], ...]:
    """Return the strides and columns to delete so that ``columns`` are left; none where taking them is less work."""
    others = [column for column in range(stride) if column not in columns]
    if len(others) > len(columns) or list(columns) != sorted(columns):
        return ()
    return tuple(zip(range(stride, 0, -1), reversed(others), strict=False))


def values(column: PropertyColumn, rows: PropertyRows) -> NDArray[Any]:
    """Return a property [N] or [N, width], in the types ASE gives it."""
    words = rows.take(column.places)
    if column.kind == "R":
        array = floats(words)
    elif column.kind == "I":
        array = np.array(list(map(int, words)), dtype=np.intc)
    elif column.kind == "L":
        array = np.array(list(map(_LOGICAL.get, words)), dtype=bool)
    else:
        array = np.array(words, dtype=object)
    return array if column.width == 1 else array.reshape(rows.n, column.width)


def floats(words: list[str]) -> NDArray[np.float64]:
    """Return numbers as `float` reads them; orjson reads most spellings, correctly rounded, faster."""
    joined = ",".join(words)
    if '"' not in joined and "u" not in joined and "s" not in joined:  # no string, null, true or false
        n, packed = len(words), bytearray(8 * len(words))
        try:
            # A comma in a word would make two numbers, a bracket a list; packing is twice as fast as np.fromiter.
            pack_into(f"{n}d", packed, 0, *orjson.loads(f"[{joined}]"))
        except (ValueError, TypeError, OverflowError, StructError):
            return np.array(list(map(float, words)))
        return np.frombuffer(packed, np.float64)
    return np.array(list(map(float, words)))
