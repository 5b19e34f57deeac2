"""Energies of isolated atoms, which define reference energies where the data do not determine them.

Total energies depend on the method by which they were computed: whether all electrons count, or those outside the cores
of pseudopotentials, or none, where energies are counted from isolated atoms. So there is one table per kind, and
`nearest` finds the table of a source. Measured energies are within about one per cent of what a density functional
gives; how a source differs from them is fitted, see `gfm_pipeline.apps.ingest.summary.references`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FLOATS = NDArray[np.float64]


@dataclass(frozen=True)
class AtomicEnergies:
    """A table: energies (eV) of the elements 1, 2, 3 ..., what kind they are, and where they come from."""

    name: str
    source: str
    energies: tuple[float, ...]

    def of(self, numbers: Sequence[int]) -> FLOATS | None:
        """Return the energies of elements [S] by atomic number; None where the table lacks one."""
        if max(numbers, default=0) > len(self.energies):
            return None
        return np.array([self.energies[z - 1] for z in numbers], dtype=np.float64)


# Column of the file beside this module -> where it comes from. Ionisation energies are summed: those of all electrons
# of an atom, and those outside the noble gas core and filled inner d and f shells; complete up to fermium. They are
# those of "Ground states and ionization energies", as pymatgen 2026.10 lists them. GFN2-xTB: single atoms in their
# ground state, lanthanides with at most three unpaired electrons.
_SOURCES = {
    "GFN2-xTB atoms": "computed with tblite 0.8.0",
    "valence electrons of free atoms": "NIST Atomic Spectra Database, ionisation energies",
    "all electrons of free atoms": "NIST Atomic Spectra Database, ionisation energies",
}


@cache
def tables() -> tuple[AtomicEnergies, ...]:
    """Return the tables: first energies relative to isolated atoms, then those of ``atomic_energies.csv``."""
    with open(Path(__file__).with_name("atomic_energies.csv"), encoding="ascii", newline="") as stream:
        rows = list(csv.DictReader(stream))
    zero = AtomicEnergies("none: energies are counted from isolated atoms", "by definition", (0.0,) * 118)
    columns = {name: tuple(float(row[name]) for row in rows if row[name]) for name in _SOURCES}
    return (zero, *(AtomicEnergies(name, source, columns[name]) for name, source in _SOURCES.items()))


def nearest(numbers: Sequence[int], composition: FLOATS, energy: FLOATS) -> tuple[AtomicEnergies, FLOATS]:
    """Return the table whose sums come nearest to energies, and its energies of the elements [S].

    Parameters
    ----------
    numbers
        Atomic numbers [S] of the columns of ``composition``.
    composition, energy
        Atoms of each element [M, S] and energies (eV) [M], or the same after an orthogonal transformation of the rows.
    """
    known = [(table, found) for table in tables() if (found := table.of(numbers)) is not None]
    return min(known, key=lambda pair: float(np.linalg.norm(energy - composition @ pair[1])))
