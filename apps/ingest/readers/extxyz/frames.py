"""Frames of (extended) XYZ files: cut by their numbers of atoms, and found again after broken text."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice

# Spellings of the three keys of the structure in files in use, in addition to those of the format.
SPELLINGS = {
    "lattice": "Lattice",
    "cell": "Lattice",
    "unit_cell": "Lattice",
    "lattice_vectors": "Lattice",
    "properties": "Properties",
    "pbc": "pbc",
}
RESPELLED = re.compile(
    rf"""(?:^|(?<=\s))({"|".join(SPELLINGS)})\s*=\s*("[^"]*"|'[^']*'|\{{[^}}]*\}}|\[[\[\]\d\s,.eE+TFtf-]*\]|[^\s"]+)""",
    re.IGNORECASE,
)
_AT_ONCE = 65_536  # lines
_ATOM = re.compile(r"\s*[A-Za-z0-9]+(?:\s+[+-]?\.?\d\S*){3}")  # a symbol or a number, and a position


def cut(lines: Iterator[str]) -> Iterator[list[str] | str]:
    """Yield the lines of each frame of a file, cut by the numbers of atoms, or why one cannot be read.

    A frame whose number of atoms is wrong costs itself: one with fewer lines ends where the next number of atoms stands
    alone on a line, one with more where lines of atoms end. What else lies between frames counts as the comment lines
    in it, at least one.
    """
    source = _Lines(lines)
    while header := next(source, ""):
        word = header.strip()
        if not word:
            continue
        if not word.isdecimal():
            lost = max(1, _skip(source))
            yield from [f"{word[:40]!r} is not a number of atoms"] * lost
            continue
        n = int(header)
        text, whole = [header], True
        while whole and len(text) < n + 2:
            more = source.take(min(n + 2 - len(text), _AT_ONCE))
            whole = bool(more)
            atoms = more if len(text) > 1 else islice(more, 1, None)  # a comment may be a number
            if any(map(str.isdecimal, map(str.strip, atoms))):  # no generator: this is the one step for each line
                end = next(k for k in range(len(text) == 1, len(more)) if more[k].strip().isdecimal())
                source.give_back(more[end:])
                del more[end:]
                whole = False
            text += more
        if not whole or len(text) < 2:
            message = (
                "fewer lines than" if source.more() else "the file ends inside this frame, which has fewer lines than"
            )
            yield f"{message} its {n} atoms"
            continue
        while (following := source.peek()).startswith("VEC"):
            text += source.take(1)
        if _ATOM.match(following) and (not n or len(following.split()) == len(text[n + 1].split())):
            lost = 1 + _skip(source)
            yield from [f"more lines than its {n} atoms"] * lost
            continue
        yield text


class _Lines:
    """Lines that can be looked at before they are taken."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._ahead: deque[str] = deque()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        return self._ahead.popleft() if self._ahead else next(self._lines)

    def take(self, n: int) -> list[str]:
        """Return the next ``n`` lines, fewer at the end of the file."""
        if not self._ahead:
            return list(islice(self._lines, n))
        found = [self._ahead.popleft() for _ in range(min(n, len(self._ahead)))]
        return found + list(islice(self._lines, n - len(found)))

    def give_back(self, lines: list[str]) -> None:
        """Put lines before those that follow."""
        self._ahead.extendleft(reversed(lines))

    def peek(self, at: int = 0) -> str:
        """Return the next line, or the one ``at`` lines after it, without taking it; empty at the end."""
        if not at and not self._ahead:
            line = next(self._lines, "")
            self._ahead.extend([line] if line else ())
            return line
        if len(self._ahead) <= at:
            self._ahead.extend(islice(self._lines, at + 1 - len(self._ahead)))
        return self._ahead[at] if len(self._ahead) > at else ""

    def more(self) -> bool:
        """Return whether the file goes on."""
        return bool(self.peek())


def _skip(source: _Lines) -> int:
    """Go to the next number of atoms that a frame follows, and return how many comment lines are passed."""
    passed = 0
    while line := source.peek():
        if line.strip().isdecimal() and (RESPELLED.search(source.peek(1)) or _ATOM.match(source.peek(2))):
            break
        passed += RESPELLED.search(line) is not None
        source.take(1)
    return passed
