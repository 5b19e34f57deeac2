"""Unit conversion, and the checks that decide which records are set aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import units
from ase.data import covalent_radii
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.neighbor_list import pairs_within, shortest_period
from gfm_pipeline.apps.ingest.assembly.given_splits import unknown_split
from gfm_pipeline.apps.ingest.checks.label_conversion import LabelConversion
from gfm_pipeline.apps.ingest.checks.lone_atoms import as_isolated
from gfm_pipeline.apps.ingest.labels.interpretation import missing
from gfm_pipeline.apps.ingest.labels.stated_units import Factors, decided
from gfm_pipeline.apps.ingest.records import Record, unreadable
from gfm_pipeline.core.contracts.data import (
    BadRecord,
    EnergyUnit,
    ForceSign,
    InconsistentPbc,
    LengthUnit,
    SourceSettings,
)
from gfm_pipeline.core.errors import DataError

CLOSEST = 0.3  # Angstrom; H2 has 0.74
LARGEST = 1e12  # eV and eV/Angstrom: far more than any structure has, and sums of squares stay finite
FARTHEST = 1e8  # Angstrom; float32 numbers there are 8 Angstrom apart
MAX_Z = 118
QUICK = 2.0  # Angstrom: shorter searches have more cells than atoms
DENSE = 64  # number of atoms up to which all distances are computed at once
ENERGY_IN_EV = {
    EnergyUnit.EV: 1.0,
    EnergyUnit.HARTREE: float(units.Hartree),
    EnergyUnit.KCAL_MOL: float(units.kcal / units.mol),
    EnergyUnit.KJ_MOL: float(units.kJ / units.mol),
}
LENGTH_IN_ANGSTROM = {LengthUnit.ANGSTROM: 1.0, LengthUnit.BOHR: float(units.Bohr)}
CELL_WITHOUT_PBC = "a cell, and no periodic direction"
RADII = np.zeros(256)  # Angstrom, by atomic number; unknown elements overlap below CLOSEST only
RADII[: len(covalent_radii)] = covalent_radii
RADII[0] = 0.0


def one_number(value: Any) -> float:
    """Return a number, also from an array of one element, as energies in databases of SchNetPack.

    Raises
    ------
    ValueError
        When it is not a single number.
    """
    found = np.asarray(value, dtype=np.float64)
    if found.size != 1:
        raise ValueError(f"the energy is {found.size} numbers, not one")
    return float(found.reshape(()))


@dataclass(frozen=True)
class Conversion:
    """Conversion of a source's labels to total energies (eV), Angstrom, and forces (eV/Angstrom).

    Attributes
    ----------
    energy, length
        Factors.
    per_atom
        Whether the energy label is to be multiplied by the number of atoms.
    sign
        -1 if the force label is a gradient, 0 without force labels.
    charge, spin
        Values for records that do not state their own.
    sentences
        Conversions, for people.
    source
        Source whose settings apply to units that records state; None: such units are ignored.
    labels
        Conversion of targets other than energy and forces, or None.
    """

    energy: float
    length: float
    sentences: tuple[str, ...]
    per_atom: bool = False
    sign: float = 1.0
    charge: float | None = None
    spin: float | None = None
    source: SourceSettings | None = None
    labels: LabelConversion | None = None

    @classmethod
    def of(cls, source: SourceSettings) -> Conversion:
        """Return the conversion for a source, with its sentences."""
        energy, length = ENERGY_IN_EV[source.energy_unit], LENGTH_IN_ANGSTROM[source.length_unit]
        sentences = []
        if energy != 1.0:
            sentences.append(f"Energies were converted from {source.energy_unit} to eV (times {energy:.9g}).")
        if length != 1.0:
            sentences.append(f"Lengths were converted from {source.length_unit} to Angstrom (times {length:.9g}).")
        without = source.forces_are is ForceSign.NONE
        if (energy != 1.0 or length != 1.0) and not without:
            sentences.append(
                f"Forces were converted from {source.energy_unit}/{source.length_unit} "
                f"to eV/Angstrom (times {energy / length:.9g})."
            )
        if source.energy_per_atom:
            sentences.append("Energies were multiplied by the number of atoms: the label is per atom.")
        gradients = source.forces_are is ForceSign.GRADIENTS
        if gradients:
            sentences.append("The sign of forces was turned: the label is the gradient of the energy.")
        if without:
            sentences.append("Energies alone are read: the source says that it has no forces.")
        sign = 0.0 if without else -1.0 if gradients else 1.0
        labels = LabelConversion(source)
        sentences += labels.sentences()
        return cls(
            energy,
            length,
            tuple(sentences),
            source.energy_per_atom,
            sign,
            source.charge,
            source.spin,
            source,
            labels,
        )

    def factors(self, record: Record) -> Factors:
        """Return the factors of a record, which may state its own units."""
        if record.units is None or self.source is None:
            return Factors(self.energy, self.length, self.energy / self.length)
        return decided(record.units, self.source)[0]

    def apply(self, record: Record) -> Record:
        """Return ``record`` in eV and Angstrom; an isolated atom joins the group of isolated atoms."""
        factor = self.factors(record)
        energy = None if record.energy is None else one_number(record.energy) * factor.energy
        if energy is not None and self.per_atom:
            energy *= len(record.numbers)
        cell = np.asarray(record.cell, dtype=np.float64) * factor.length
        converted = replace(
            record,
            pos=np.asarray(record.pos, dtype=np.float64) * factor.length,
            cell=cell,
            energy=energy,
            forces=None
            if record.forces is None or not self.sign
            else np.asarray(record.forces, dtype=np.float64) * (self.sign * factor.forces),
            charge=self.charge if record.charge is None else record.charge,
            spin=self.spin if record.spin is None else record.spin,
            labels=record.labels if self.labels is None else self.labels.labels(record, cell),
        )
        return as_isolated(converted, forces=bool(self.sign))


def malformed(record: Record) -> str | None:
    """Return why a record cannot be examined at all, or None."""
    if record.numbers.ndim != 1 or record.numbers.dtype.kind not in "iu":
        return "atomic numbers are not whole numbers, one per atom"
    if not len(record.numbers):
        return "no atoms"
    if record.cell.shape != (3, 3) or record.pbc.shape != (3,):
        return "the cell is not three vectors, or the periodic directions are not three"
    return None


def _unusable(record: Record, source: SourceSettings) -> str | None:
    """Return why a record is unusable with any filters, or None."""
    odd_shape = malformed(record)
    if odd_shape is not None:
        return odd_shape
    n = len(record.numbers)
    if record.pos.shape != (n, 3) or not np.isfinite(record.pos).all() or not np.isfinite(record.cell).all():
        return "positions or cell are not finite numbers"
    if max(np.abs(record.pos).max(), np.abs(record.cell).max()) > FARTHEST:
        return f"positions or cell are beyond {FARTHEST:g} Angstrom: they cannot be told apart in float32"
    odd = (record.numbers < 1) | (record.numbers > MAX_Z)
    if odd.any():
        number = int(record.numbers[odd][0])
        return f"unknown element: atomic number {number}" + ("" if number else ", a ghost atom, a vacancy or a dummy")
    if record.group is None:
        lacks = "what its format names groups by" if source.group_key is None else f"`{source.group_key}`"
        return f"no group: the record has no {lacks}"
    if (no_split := unknown_split(source, record.split, record.group)) is not None:
        return no_split
    if record.fault is not None:
        return record.fault
    odd_label = next((name for name, values in record.labels.items() if not np.isfinite(values).all()), None)
    if odd_label is not None:
        return f"{odd_label} is not finite numbers"
    if record.energy is None:
        return _without(record, "energy", source.energy_key)
    if not np.isfinite(record.energy):
        return "energy is not a finite number"
    if abs(record.energy) > LARGEST:
        return f"energy is beyond {LARGEST:g} eV: {record.energy:g}"
    if record.forces is None:
        wanted = source.forces_are is not ForceSign.NONE and not record.omits_forces
        return _without(record, "forces", source.forces_key) if wanted else None
    if record.forces.shape != (n, 3) or not np.isfinite(record.forces).all():
        return "forces are not finite numbers"
    if np.abs(record.forces).max() > LARGEST:
        return f"forces are beyond {LARGEST:g} eV/Angstrom: {np.abs(record.forces).max():g}"
    return None


def _without(record: Record, label: str, key: str | None) -> str:
    return f"no {label}{missing(record.keys, label)}" if key is None else f"no {label}: the record has no `{key}`"


def faults(record: Record, source: SourceSettings) -> Iterator[str]:
    """Yield why a record in eV and Angstrom is set aside: one reason if it is unusable, else one per filter.

    The text before the first colon is the reason's name; numbers come after it.
    """
    unusable = _unusable(record, source)
    if unusable is not None:
        yield unusable
        return
    largest = 0.0 if record.forces is None else float(np.abs(record.forces).max())
    if source.max_force is not None and largest > source.max_force:
        yield f"force above the limit: {largest:.3g} eV/Angstrom"
    if source.inconsistent_pbc is InconsistentPbc.QUARANTINE and oddity(record) is not None:
        yield f"inconsistent pbc: {CELL_WITHOUT_PBC}"
    radii = RADII[record.numbers]
    reach = max(CLOSEST, source.overlap * 2.0 * float(radii.max()), source.isolated_atoms or 0.0)
    try:
        repeats = shortest_period(record.cell, record.pbc, below=CLOSEST)
        if repeats < CLOSEST:  # also because a search lists more images in a smaller cell
            yield f"atoms overlap: atoms and their own images are {repeats:.3g} Angstrom apart"
            return
        src, dst, distance = _pairs(record, reach)
    except DataError:
        yield "periodic cell has no volume"
        return
    if len(src):
        yield from _overlaps(source.overlap, radii, src, dst, distance)
    if source.isolated_atoms is not None:
        alone = np.flatnonzero(np.bincount(np.concatenate([src, dst]), minlength=len(record.numbers)) == 0)
        if len(alone):
            yield f"isolated atom: {int(alone[0])} has no neighbour within {source.isolated_atoms:g} Angstrom"


def _pairs(record: Record, reach: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the ends and lengths of all pairs [P]; of small molecules by all distances, in a tenth of the time."""
    if np.any(record.pbc) or len(record.numbers) > DENSE:
        src, dst, _, distance = pairs_within(record.pos, record.cell, record.pbc, max(reach, QUICK))
        near = distance < reach
        return src[near], dst[near], distance[near]
    apart = record.pos[:, None] - record.pos[None]
    square = np.einsum("ijk,ijk->ij", apart, apart)
    src, dst = np.nonzero(np.triu(square < reach * reach, 1))
    return src, dst, np.sqrt(square[src, dst])


def _overlaps(
    share: float,
    radii: NDArray[np.float64],
    src: NDArray[np.int64],
    dst: NDArray[np.int64],
    distance: NDArray[np.float64],
) -> Iterator[str]:
    least = np.maximum(CLOSEST, share * (radii[src] + radii[dst]))
    worst = int(np.argmin(distance - least))
    if distance[worst] < least[worst]:
        first, second = sorted((int(src[worst]), int(dst[worst])))
        yield (
            f"atoms overlap: {first} and {second} are {distance[worst]:.3g} Angstrom apart, "
            f"the least is {least[worst]:.3g}"
        )


def oddity(record: Record) -> str | None:
    """Return what is odd about a usable record, or None."""
    if np.any(record.cell) and not np.any(record.pbc):
        return CELL_WITHOUT_PBC
    return None


def clean(record: Record, source: SourceSettings, conversion: Conversion) -> Record | BadRecord:
    """Convert a record and return it, or the reason to set it aside."""
    try:
        converted = conversion.apply(record)
        reason = next(faults(converted, source), None)
    except Exception as error:  # noqa: BLE001 - foreign values of any shape; what they break costs the record
        return unreadable(source, record.file, record.index, error)
    return converted if reason is None else BadRecord(source.name, record.file, record.index, reason)
