"""The keys of the structure in extended XYZ as files spell them, and cells as they give them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ase.data import chemical_symbols
from ase.geometry import cellpar_to_cell

from gfm_pipeline.apps.ingest.readers.extxyz.frames import RESPELLED, SPELLINGS
from gfm_pipeline.apps.ingest.readers.species import ISOTOPES

_PROPERTIES = re.compile(r"""(?:^|\s)Properties\s*=\s*"?([^\s"]+)""")


def respell(comment: str) -> str:
    """Return a comment line with the keys of the structure as the format spells them, and cells as nine numbers."""
    found: dict[str, tuple[int, str]] = {}
    for match in RESPELLED.finditer(comment):
        name = SPELLINGS[match[1].lower()]
        value = match[2] if name != "Lattice" else _nine_numbers(match[2])
        exact = match[1] == name
        if value is not None and (exact or name not in found):
            found[name] = (match.start(), f"{name}={value}")
    kept = dict(found.values())

    def spelled(match: re.Match[str]) -> str:
        return kept.get(match.start(), match[0])

    return RESPELLED.sub(spelled, comment)


def _nine_numbers(value: str) -> str | None:
    """Return the lattice vectors that a cell of nine, six (lengths, angles) or three numbers gives, else None."""
    try:
        numbers = [float(token) for token in re.sub(r"[\[\]{}\"',]", " ", value).split()]
    except ValueError:
        return None  # a word, such as the name of a cell
    if len(numbers) in (3, 6):
        angles = numbers[3:] or [90.0] * 3
        numbers = cellpar_to_cell([*numbers[:3], *angles]).ravel().tolist()
    return f'"{" ".join(map(repr, numbers))}"' if len(numbers) == 9 else None


@lru_cache(maxsize=256)
def unusually_spelled(names: tuple[str, ...]) -> bool:
    """Return whether a key of the structure is among the names in another spelling only."""
    return any(name != SPELLINGS.get(name.lower(), name) and SPELLINGS[name.lower()] not in names for name in names)


def without_isotopes(lines: Sequence[str]) -> list[str]:
    """Return the lines of a frame with isotopes of hydrogen by the symbol of the element, the only one ASE knows."""
    place = _column_of_species(lines[1])
    word = re.compile(rf"(\s*(?:\S+\s+){{{place}}})({'|'.join(ISOTOPES)})(?=\s|$)")
    n = 2 + int(lines[0])
    return [
        *lines[:2],
        *(word.sub(_by_element, line, count=1) if word.match(line) else line for line in lines[2:n]),
        *lines[n:],
    ]


def _by_element(match: re.Match[str]) -> str:
    return f"{match[1]}{chemical_symbols[ISOTOPES[match[2]]]}"


def _column_of_species(comment: str) -> int:
    """Return which word of a line is the species; the first one where nothing else is said."""
    properties = _PROPERTIES.search(comment)
    fields = properties[1].split(":") if properties is not None else []
    place = 0
    for name, width in zip(fields[::3], fields[2::3], strict=False):
        if name == "species":
            return place
        place += int(width) if width.isdecimal() else 0
    return 0
