"""Symbols of species in data files: elements, isotopes of hydrogen, and invalid symbols."""

from __future__ import annotations

from functools import lru_cache

from ase.data import atomic_numbers

from gfm_pipeline.apps.ingest.files.file_reader import RefusedError

# Deuterium and tritium: other masses, the same potential energy surface as hydrogen.
ISOTOPES = {"D": 1, "T": 1}


@lru_cache(maxsize=1024)
def number_of(symbol: str) -> int:
    """Return the atomic number of a symbol in any case; isotopes of hydrogen are hydrogen.

    Raises
    ------
    RefusedError
        When it is not an element: the symbol of a ghost atom, a label such as ``H_1``, an ion such as ``Cu1+``.
    """
    name = symbol.strip()
    number = ISOTOPES.get(name) or atomic_numbers.get(name.capitalize(), 0)
    if not number:
        raise RefusedError(
            f"unknown element: {name[:20]!r} is not a symbol of an element (of ghost atoms, labels like H_1 and ions "
            "such as Cu1+ only the element is known here: write its symbol)"
        )
    return number
