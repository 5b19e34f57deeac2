"""Records of single atoms without neighbours: references for the energies of other records, not training data.

Datasets have them in separate frames (``config_type=IsolatedAtom``) or in a separate file (``isolated_atoms.xyz``).
This module recognises them by structure and not by name: one atom without a near image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.neighbor_list import shortest_period
from gfm_pipeline.apps.ingest.checks.fingerprints import group_id
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.errors import DataError

ALONE = 6.0  # Angstrom to the nearest image; caesium, the widest of the metals, has 5.2
LONE = "@isolated-atoms"  # name of their group
LONE_ID = group_id(LONE)
FARTHEST_OFF = 15.0  # eV/atom; no compound is bound by more than about 8 (diamond, tungsten)


def is_lone(record: Record) -> bool:
    """Return whether a record in Angstrom is one atom without neighbours."""
    if record.numbers.shape != (1,) or record.cell.shape != (3, 3) or not np.isfinite(record.cell).all():
        return False
    try:
        return shortest_period(record.cell, record.pbc, below=ALONE) >= ALONE
    except DataError:
        return False


def as_isolated(record: Record, forces: bool) -> Record:
    """Put an isolated atom into its group; with ``forces``, add a missing force as zero. Other records stay as is.

    The record needs no group or force of its own: the group is known, and the force is zero by symmetry.
    """
    if not is_lone(record):
        return record
    known = np.zeros((1, 3)) if forces and record.forces is None else record.forces
    return replace(record, group=LONE, forces=known)


def lowest_energies(
    numbers: Iterable[int], energies: Iterable[float], charges: Iterable[float | None]
) -> dict[str, float]:
    """Return the lowest energy (eV) of each element among isolated atoms, by symbol; ions are left out.

    Several records of an element are different spin states; the lowest is the ground state.
    """
    found: dict[str, float] = {}
    for number, energy, charge in zip(numbers, energies, charges, strict=True):
        if charge is None or np.isnan(charge) or charge == 0.0:
            symbol = chemical_symbols[number]
            found[symbol] = min(energy, found.get(symbol, np.inf))
    return found


def isolated_atoms_sentence(energies: dict[str, float]) -> tuple[str, ...]:
    """Return the sentence that energies of isolated atoms (eV) are the references."""
    if not energies:
        return ()
    each = ", ".join(f"{symbol} {energy:.6g} eV" for symbol, energy in energies.items())
    return (f"Isolated atoms are among the records: their energies are the reference energies, {each}.",)


def foreign_energies_sentence(energies: dict[str, float], off: float) -> tuple[str, ...]:
    """Return the warning that isolated atoms are ``off`` eV/atom from the rest, so of another level of theory."""
    return (
        f"The energies of the isolated atoms of {', '.join(energies)} do not belong to those of the other records, "
        f"which are {abs(off):.4g} eV/atom {'above' if off > 0 else 'below'} their sums: reference energies are fitted "
        "instead. Correct them, leave them out, or give isolated_energies.",
    )


def found_in(
    group: NDArray[np.uint64],
    numbers: NDArray[np.uint8],
    natoms: NDArray[np.int64],
    energy: NDArray[np.float64],
    charge: NDArray[np.float32],
) -> dict[str, float]:
    """Return the `lowest_energies` of records [G] whose group is that of isolated atoms; ``numbers`` are [N]."""
    rows = np.flatnonzero(group == np.uint64(LONE_ID))
    starts = np.cumsum(natoms) - natoms
    return lowest_energies(numbers[starts[rows]].tolist(), energy[rows].tolist(), charge[rows].tolist())
