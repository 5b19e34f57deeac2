"""Reference energies of the elements, and what a model that learned nothing scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from gfm_pipeline.apps.contracts.data import DatasetStatistics, Split
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.common.errors import DataError


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
    given = dict(isolated or {})
    for symbol, energy in given.items():
        if symbol not in atomic_numbers or symbol == "X" or not np.isfinite(energy):
            raise DataError(f"Isolated energy {symbol}: {energy} is not an element with a finite energy.")
    present, composition = train.composition()
    column = {chemical_symbols[z]: composition[:, k] for k, z in enumerate(present)}
    rest = train.energy.copy()
    for symbol, energy in given.items():
        if symbol in column:
            rest -= energy * column[symbol]
    free = [symbol for symbol in column if symbol not in given]
    energies = {symbol: float(given.get(symbol, 0.0)) for symbol in elements}
    rank = 0
    if free:
        solution, _, found, _ = np.linalg.lstsq(np.stack([column[s] for s in free], axis=1), rest, rcond=None)
        rank = int(found)
        energies.update({symbol: float(value) for symbol, value in zip(free, solution, strict=True)})
    used = sum(symbol in given for symbol in elements)
    origin = "fit" if not used else "isolated atoms" if not free else "isolated atoms, the rest fit"
    return ReferenceEnergies(energies, rank + used, origin)


def residual(columns: Columns, energies: Mapping[str, float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return energy minus references of each structure, eV/atom [G]."""
    present, composition = columns.composition()
    reference = composition @ np.array([energies[chemical_symbols[z]] for z in present])
    per_atom: np.ndarray[tuple[int], np.dtype[np.float64]] = (columns.energy - reference) / columns.natoms
    return per_atom


def statistics(
    name: str,
    splits: Mapping[Split, Columns],
    n_groups: Mapping[Split, int],
    references: ReferenceEnergies,
    n_quarantined: int,
    reasons: dict[str, int],
) -> DatasetStatistics:
    """Return the facts of a dataset."""
    train = splits[Split.TRAIN]
    off = {split: residual(columns, references.energies) for split, columns in splits.items()}
    return DatasetStatistics(
        name=name,
        n_structures={str(s): len(c) for s, c in splits.items()},
        n_atoms={str(s): len(c.numbers) for s, c in splits.items()},
        n_groups={str(s): n for s, n in n_groups.items()},
        elements=tuple(references.energies),
        reference=references.energies,
        reference_rank=references.rank,
        reference_from=references.origin,
        force_rms=float(np.sqrt(np.mean(train.forces.astype(np.float64) ** 2))),
        energy_std=float(off[Split.TRAIN].std()),
        null_energy_mae={str(s): float(np.abs(e).mean()) for s, e in off.items()},
        null_force_mae={str(s): float(np.abs(c.forces.astype(np.float64)).mean()) for s, c in splits.items()},
        max_atoms=int(max(c.natoms.max() for c in splits.values())),
        n_quarantined=n_quarantined,
        reasons=reasons,
        energy_mean=float(off[Split.TRAIN].mean()),
    )
