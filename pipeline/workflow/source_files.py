"""Files of an entry of ``files``: an existing path is that path, whatever characters it has.

Only what no path is spelled like is a pattern. Both are decided folder by folder, so that ``project [v2]/*.xyz`` is a
pattern inside the folder ``project [v2]``. Names that differ only in how accents are composed (NFC, NFD) are the same.
"""

from __future__ import annotations

import glob
import os
import unicodedata
from pathlib import Path


def named(folder: Path, name: str) -> list[Path]:
    """Return what ``name``, a path or a pattern, relative to ``folder`` or absolute, stands for; sorted.

    ``~`` is the home folder where nothing in ``folder`` is called that.
    """
    parts = Path(name).parts
    if not parts:
        return []
    base = folder
    if Path(name).is_absolute():
        base, parts = Path(parts[0]), parts[1:]
    found = _matching(base, parts)
    if not found and parts and parts[0].startswith("~"):
        try:
            found = _matching(Path(parts[0]).expanduser(), parts[1:])
        except RuntimeError:  # nobody is called so
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
        # As glob has it: this folder and all below, for what follows; and all there is, where nothing does.
        inner = glob.glob("**/" if rest else "**", root_dir=base, recursive=True)  # noqa: PTH207 - pathlib has no such ** before Python 3.13
        found = _matching(base, rest) if rest else set()
        return found.union(*(_matching(base / name, rest) for name in inner))
    spelled = _spellings(first)
    names = {name for pattern in spelled for name in glob.glob(pattern, root_dir=base)}  # noqa: PTH207 - hides dotfiles
    return set().union(*(_matching(base / name, rest) for name in names))


def _spellings(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))))
