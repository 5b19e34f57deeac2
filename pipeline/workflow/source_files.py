"""Files of an entry of ``files``: an existing path is always that path, with any characters.

Only an entry that equals no path is a pattern. The decision is made folder by folder, so ``project [v2]/*.xyz`` is a
pattern inside the folder ``project [v2]``. Names that differ only in the composition of accents (NFC, NFD) are equal.
"""

from __future__ import annotations

import glob
import os
import unicodedata
from pathlib import Path


def named(folder: Path, name: str) -> list[Path]:
    """Return the sorted files of ``name``, a path or a pattern, relative to ``folder`` or absolute.

    ``~`` is the home folder unless ``folder`` contains a file of this name.
    """
    parts = Path(name).parts
    if not parts:
        return [folder] if name else []
    base = folder
    if Path(name).is_absolute():
        base, parts = Path(parts[0]), parts[1:]
    found = _matching(base, parts)
    if not found and parts and parts[0].startswith("~"):
        try:
            found = _matching(Path(parts[0]).expanduser(), parts[1:])
        except RuntimeError:  # no user has this name
            return []
    return sorted(found)


def _matching(base: Path, parts: tuple[str, ...]) -> set[Path]:
    if not parts:
        return {base} if os.path.lexists(base) else set()
    first, rest = parts[0], parts[1:]
    if first == "..":
        return _matching(base / first, rest)
    literal = next((base / spelled for spelled in _spellings(first) if os.path.lexists(base / spelled)), None)
    found = set() if literal is None else _matching(literal, rest)
    if found or not glob.has_magic(first):
        return found
    if first == "**":
        # As in glob: this folder and all folders below for the rest of the pattern; all files if there is no rest.
        inner = glob.glob("**/" if rest else "**", root_dir=base, recursive=True)  # noqa: PTH207 - pathlib has no such ** before Python 3.13
        found = _matching(base, rest) if rest else set()
        return found.union(*(_matching(base / name, rest) for name in inner))
    spelled = _spellings(first)
    names = {name for pattern in spelled for name in glob.glob(pattern, root_dir=base)}  # noqa: PTH207 - hides dotfiles
    return set().union(*(_matching(base / name, rest) for name in names))


def _spellings(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))))
