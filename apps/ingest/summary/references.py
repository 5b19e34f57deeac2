"""Reference energies of the elements: least squares, completed by those of free atoms.

Structures of one composition determine one number, the energy of that composition, and not an energy for each element.
Of all least-squares solutions, this module takes the one nearest to energies of free atoms, all shifted by one energy
per atom to fit the data: the energy of bonds per atom is similar for all elements, unlike the energy of the atom
itself. So single references have sensible values, and compositions absent from the data have the error of such a table,
a few eV, instead of hundreds. The result states what the data do not determine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.ingest.summary.atomic_energies import AtomicEnergies, nearest
from gfm_pipeline.core.errors import DataError

_DETERMINED = 1e-6  # share of an element's energy in undetermined directions above which it counts as not determined

FLOATS = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceEnergies:
    """Reference energy of each element (eV), how many of them the data determine, and where they come from.

    Attributes
    ----------
    energies
        By symbol, in the order of the elements of the dataset.
    rank
        Number of energies that the data and isolated atoms determine.
    origin
        ``fit``, ``isolated atoms``, or both, in words.
    undetermined
        Directions in the space of compositions that the data do not determine [D][S]: orthonormal rows over the
        elements of ``energies``. The reference of a composition is determined if its product with each is 0.
    prior
        The table of the undetermined part; None without such a part.
    shift
        Shift added to the table, eV/atom.
    """

    energies: dict[str, float]
    rank: int
    origin: str
    undetermined: tuple[tuple[float, ...], ...] = ()
    prior: AtomicEnergies | None = None
    shift: float = 0.0

    def doubtful(self) -> tuple[str, ...]:
        """Return the elements whose own energies the data do not determine."""
        length = np.linalg.norm(np.array(self.undetermined).reshape(-1, len(self.energies)), axis=0)
        return tuple(s for s, n in zip(self.energies, length.tolist(), strict=True) if n > _DETERMINED)

    def sentence(self) -> str | None:
        """Return what the data do not determine, for people; None if they determine everything."""
        if self.prior is None:
            return None
        many = f"the reference energies of {', '.join(self.doubtful())} one by one"
        return (
            f"The compositions in the data do not determine {many} (rank {self.rank} of "
            f"{len(self.energies)}). What they leave open follows a table, {self.prior.name} ({self.prior.source}), "
            f"shifted by {self.shift:.3f} eV/atom: energies of compositions that are no combination of those in the "
            "data may be several eV off, and no interval knows. Give isolated_energies, or isolated atoms among the "
            "records, where other compositions are to be predicted."
        )


def fit_references(
    train: Columns, elements: tuple[str, ...], isolated: Mapping[str, float] | None = None
) -> ReferenceEnergies:
    """Fit one energy per element by linear least squares on the training split, in float64.

    Parameters
    ----------
    train
        The training split.
    elements
        Symbols of all elements of the dataset.
    isolated
        Isolated-atom energies (eV): kept as they are, the rest is fitted to what remains.

    Returns
    -------
    ReferenceEnergies
        Where compositions do not determine all energies, the solution nearest to a table of free atoms; elements that
        training has none of have the energy of that table.

    Raises
    ------
    DataError
        When ``isolated`` names something that is not an element, or an energy that is not finite.
    """
    present, composition = train.composition()
    return solve_references(present, composition, train.energy, elements, isolated)


def solve_references(
    present: NDArray[np.int64],
    composition: FLOATS,
    energy: FLOATS,
    elements: tuple[str, ...],
    isolated: Mapping[str, float] | None = None,
    rcond: float | None = None,
) -> ReferenceEnergies:
    """Fit as `fit_references`, from the number of atoms of each element in each structure.

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
    rank, matrix = 0, np.zeros((len(rest), 0))
    if free:
        matrix = np.stack([column[s] for s in free], axis=1)
        solution, _, found, _ = np.linalg.lstsq(matrix, rest, rcond=rcond)
        rank = int(found)
        energies.update({symbol: float(value) for symbol, value in zip(free, solution, strict=True)})
    used = sum(symbol in given for symbol in elements)
    origin = "fit" if not used else "isolated atoms" if not free else "isolated atoms, the rest fit"
    fitted = ReferenceEnergies(energies, rank + used, origin)
    missing = [symbol for symbol in elements if symbol not in given and symbol not in column]
    return _completed(fitted, free, missing, matrix, rest, rank) if missing or rank < len(free) else fitted


def _completed(
    fitted: ReferenceEnergies, free: list[str], missing: list[str], matrix: FLOATS, rest: FLOATS, rank: int
) -> ReferenceEnergies:
    """Take the undetermined part from a table of free atoms.

    Parameters
    ----------
    fitted
        The solution of smallest norm.
    free, missing
        Fitted elements [F], and elements absent from training.
    matrix, rest
        Atoms of each of ``free`` [M, F], and the energies they are to explain [M].
    rank
        Of ``matrix``.
    """
    energies, names = dict(fitted.energies), list(fitted.energies)
    prior, _ = nearest([atomic_numbers[symbol] for symbol in (*free, *missing)], np.pad(matrix, _beside(missing)), rest)
    table = {s: prior.energies[atomic_numbers[s] - 1] for s in names if atomic_numbers[s] <= len(prior.energies)}
    atoms = matrix.sum(axis=1)
    off = rest - matrix @ np.array([table[symbol] for symbol in free])
    shift = float(atoms @ off / (atoms @ atoms)) if atoms.any() else 0.0
    directions = np.zeros((len(free) - rank + len(missing), len(names)))
    if free:
        left_open = np.linalg.svd(np.linalg.qr(matrix, mode="r"))[2][rank:]  # orthonormal
        drawn = left_open.T @ (left_open @ np.array([table[symbol] + shift for symbol in free]))
        for k, symbol in enumerate(free):
            energies[symbol] += float(drawn[k])
            directions[: len(left_open), names.index(symbol)] = left_open[:, k]
    for k, symbol in enumerate(missing, start=len(free) - rank):
        energies[symbol] = table[symbol] + shift
        directions[k, names.index(symbol)] = 1.0
    rows = tuple(tuple(row) for row in directions.tolist())
    return ReferenceEnergies(energies, fitted.rank, fitted.origin, rows, prior, shift)


def _beside(missing: list[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, 0), (0, len(missing))


def residual(columns: Columns, energies: Mapping[str, float]) -> NDArray[np.float64]:
    """Return energy minus references of each structure, eV/atom [G]."""
    present, composition = columns.composition()
    reference = composition @ np.array([energies[chemical_symbols[z]] for z in present])
    per_atom: NDArray[np.float64] = (columns.energy - reference) / columns.natoms
    return per_atom
