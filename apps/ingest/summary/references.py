"""Reference energies of the elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.core.errors import DataError


@dataclass(frozen=True)
class ReferenceEnergies:
    """Reference energy of each element (eV), how many of them the data determine, and where they come from."""

    energies: dict[str, float]
    rank: int
    origin: str


def fit_references(
    train: Columns, elements: tuple[str, ...], isolated: Mapping[str, float] | None = None
) -> ReferenceEnergies:
    """Fit one energy an element by linear least squares on the training split, in float64.

    Parameters
    ----------
    train
        The training split.
    elements
        Symbols of all elements of the dataset; those that training has none of get 0 unless given.
    isolated
        Isolated-atom energies (eV): kept as they are, the rest is fitted to what remains.

    Returns
    -------
    ReferenceEnergies
        Where compositions do not determine all energies, the solution of smallest norm.

    Raises
    ------
    DataError
        When ``isolated`` names something that is no element or no finite number.
    """
    present, composition = train.composition()
    return solve_references(present, composition, train.energy, elements, isolated)


def solve_references(
    present: NDArray[np.int64],
    composition: NDArray[np.float64],
    energy: NDArray[np.float64],
    elements: tuple[str, ...],
    isolated: Mapping[str, float] | None = None,
    rcond: float | None = None,
) -> ReferenceEnergies:
    """Fit as `fit_references`, from how often each structure has each element.

    Parameters
    ----------
    present
        Atomic numbers [S] of the columns of ``composition``.
    composition, energy
        Atoms of each element [M, S] and energy (eV) [M] of each structure, or the same after an orthogonal
        transformation of the M rows.
    elements, isolated
        As for `fit_references`.
    rcond
        Smallest singular value, as a share of the largest, that counts; None: numpy's.
    """
    given = dict(isolated or {})
    for symbol, value in given.items():
        if symbol not in atomic_numbers or symbol == "X" or not np.isfinite(value):
            raise DataError(f"Isolated energy {symbol}: {value} is not an element with a finite energy.")
    column = {chemical_symbols[z]: composition[:, k] for k, z in enumerate(present.tolist())}
    rest = np.array(energy, dtype=np.float64)
    for symbol, value in given.items():
        if symbol in column:
            rest -= value * column[symbol]
    free = [symbol for symbol in column if symbol not in given]
    energies = {symbol: float(given.get(symbol, 0.0)) for symbol in elements}
    rank = 0
    if free:
        solution, _, found, _ = np.linalg.lstsq(np.stack([column[s] for s in free], axis=1), rest, rcond=rcond)
        rank = int(found)
        energies.update({symbol: float(value) for symbol, value in zip(free, solution, strict=True)})
    used = sum(symbol in given for symbol in elements)
    origin = "fit" if not used else "isolated atoms" if not free else "isolated atoms, the rest fit"
    return ReferenceEnergies(energies, rank + used, origin)


def residual(columns: Columns, energies: Mapping[str, float]) -> NDArray[np.float64]:
    """Return energy minus references of each structure, eV/atom [G]."""
    present, composition = columns.composition()
    reference = composition @ np.array([energies[chemical_symbols[z]] for z in present])
    per_atom: NDArray[np.float64] = (columns.energy - reference) / columns.natoms
    return per_atom
