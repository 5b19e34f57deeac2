"""Unit conversion, and the checks that decide which records are set aside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ase import units

from gfm_pipeline.apps.contracts.data import BadRecord, EnergyUnit, LengthUnit, SourceSettings
from gfm_pipeline.apps.dataset.neighbours import neighbour_list
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.common.errors import DataError

CLOSEST = 0.3  # Angstrom; H2 has 0.74
MAX_Z = 118
ENERGY_IN_EV = {
    EnergyUnit.EV: 1.0,
    EnergyUnit.HARTREE: float(units.Hartree),
    EnergyUnit.KCAL_MOL: float(units.kcal / units.mol),
    EnergyUnit.KJ_MOL: float(units.kJ / units.mol),
}
LENGTH_IN_ANGSTROM = {LengthUnit.ANGSTROM: 1.0, LengthUnit.BOHR: float(units.Bohr)}


@dataclass(frozen=True)
class Conversion:
    """Factors from the units of a source to eV and Angstrom."""

    energy: float
    length: float
    sentences: tuple[str, ...]

    @classmethod
    def of(cls, source: SourceSettings) -> Conversion:
        """Return the conversion a source needs and the sentences that say so."""
        energy, length = ENERGY_IN_EV[source.energy_unit], LENGTH_IN_ANGSTROM[source.length_unit]
        sentences = []
        if energy != 1.0:
            sentences.append(f"Energies were converted from {source.energy_unit} to eV (times {energy:.9g}).")
        if length != 1.0:
            sentences.append(f"Lengths were converted from {source.length_unit} to Angstrom (times {length:.9g}).")
        if energy != 1.0 or length != 1.0:
            sentences.append(
                f"Forces were converted from {source.energy_unit}/{source.length_unit} "
                f"to eV/Angstrom (times {energy / length:.9g})."
            )
        return cls(energy, length, tuple(sentences))

    def apply(self, record: Record) -> Record:
        """Return ``record`` in eV and Angstrom."""
        return replace(
            record,
            pos=np.asarray(record.pos, dtype=np.float64) * self.length,
            cell=np.asarray(record.cell, dtype=np.float64) * self.length,
            energy=None if record.energy is None else float(record.energy) * self.energy,
            forces=None
            if record.forces is None
            else np.asarray(record.forces, dtype=np.float64) * (self.energy / self.length),
        )


def fault(record: Record, max_force: float | None) -> str | None:
    """Return why a record in eV and Angstrom cannot be used, or None.

    The text before the first colon is the reason's name; numbers come after it.
    """
    n = len(record.numbers)
    if n == 0:
        return "no atoms"
    if record.pos.shape != (n, 3) or not np.isfinite(record.pos).all() or not np.isfinite(record.cell).all():
        return "positions or cell are not finite numbers"
    odd = [int(z) for z in record.numbers if not 1 <= z <= MAX_Z]
    if odd:
        return f"unknown element: atomic number {odd[0]}"
    if record.group is None:
        return "no group"
    if record.energy is None:
        return "no energy"
    if not np.isfinite(record.energy):
        return "energy is not a finite number"
    if record.forces is None:
        return "no forces"
    if record.forces.shape != (n, 3) or not np.isfinite(record.forces).all():
        return "forces are not finite numbers"
    largest = float(np.abs(record.forces).max())
    if max_force is not None and largest > max_force:
        return f"force above the limit: {largest:.3g} eV/Angstrom"
    try:
        close = neighbour_list(record.pos, record.cell, record.pbc, CLOSEST)
    except DataError:
        return "periodic cell has no volume"
    if len(close[0]):
        return f"atoms overlap: {int(close[0][0])} and {int(close[1][0])} are closer than {CLOSEST} Angstrom"
    return None


def clean(record: Record, source: SourceSettings, conversion: Conversion) -> Record | BadRecord:
    """Convert a record and return it, or the reason it is set aside."""
    try:
        converted = conversion.apply(record)
    except (TypeError, ValueError) as error:
        return BadRecord(source.name, record.file, record.index, f"unreadable: {error}")
    reason = fault(converted, source.max_force)
    return converted if reason is None else BadRecord(source.name, record.file, record.index, reason)
