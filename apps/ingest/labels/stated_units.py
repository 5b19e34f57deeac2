"""Units stated in data: comment lines, metadata of databases, attributes of arrays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ase import units

from gfm_pipeline.core.contracts.data import EnergyUnit, LengthUnit, SourceSettings, StatedUnits

# In eV and in Angstrom; names in lower case without spaces, points, brackets and carets.
ENERGIES: dict[str, tuple[str, float]] = {
    name: (unit, value)
    for unit, value, names in (
        ("eV", 1.0, ("ev", "electronvolt", "electronvolts")),
        ("meV", 1e-3, ("mev",)),
        ("Ha", units.Hartree, ("ha", "hartree", "hartrees", "eh", "au", "atomicunits", "h")),
        ("Ry", units.Rydberg, ("ry", "rydberg", "rydbergs")),
        ("kcal/mol", units.kcal / units.mol, ("kcal/mol", "kcalmol-1", "kcal*mol-1", "kcalmol", "kcalpermol")),
        ("kJ/mol", units.kJ / units.mol, ("kj/mol", "kjmol-1", "kj*mol-1", "kjmol", "kjpermol")),
    )
    for name in names
}
LENGTHS: dict[str, tuple[str, float]] = {
    name: (unit, value)
    for unit, value, names in (
        ("Angstrom", 1.0, ("ang", "angstrom", "angstroms", "a", "å", "aa")),
        ("Bohr", units.Bohr, ("bohr", "bohrs", "a0", "au", "atomicunits", "b")),
        ("nm", 10.0, ("nm", "nanometer", "nanometre")),
        ("pm", 0.01, ("pm", "picometer", "picometre")),
    )
    for name in names
}


@dataclass(frozen=True)
class StatedUnit:
    """A unit by its name, and its value in eV, Angstrom or eV/Angstrom."""

    name: str
    value: float


@dataclass(frozen=True)
class Stated:
    """The units that records state; None: no known unit."""

    energy: StatedUnit | None = None
    length: StatedUnit | None = None
    forces: StatedUnit | None = None


def _plain(text: str) -> str:
    return re.sub(r"[\s.^(){}\[\]_]", "", text.strip().lower().replace("−", "-").replace("ångström", "angstrom"))


def energy_unit(text: str) -> StatedUnit | None:
    """Return the energy unit of a name; None when it is not known."""
    found = ENERGIES.get(_plain(text))
    return None if found is None else StatedUnit(*found)


def length_unit(text: str) -> StatedUnit | None:
    """Return the length unit of a name; None when it is not known."""
    found = LENGTHS.get(_plain(text))
    return None if found is None else StatedUnit(*found)


def forces_unit(text: str) -> StatedUnit | None:
    """Return the force unit of a name such as ``kcal/mol/Ang``; None when it is not known."""
    energy, slash, length = _plain(text).rpartition("/")
    if not slash or energy.lower() in ("kcal", "kj"):
        return StatedUnit("Ha/Bohr", units.Hartree / units.Bohr) if _plain(text) in ("au", "atomicunits") else None
    e, r = ENERGIES.get(energy), LENGTHS.get(length.removesuffix("-1"))
    return None if e is None or r is None else StatedUnit(f"{e[0]}/{r[0]}", e[1] / r[1])


@lru_cache(maxsize=256)
def stated(energy: str | None, length: str | None, forces: str | None) -> Stated:
    """Return the units that statements mean."""
    return Stated(
        None if energy is None else energy_unit(energy),
        None if length is None else length_unit(length),
        None if forces is None else forces_unit(forces),
    )


@dataclass(frozen=True)
class Factors:
    """Factors from the labels of a record to eV, Angstrom and eV/Angstrom."""

    energy: float
    length: float
    forces: float


@lru_cache(maxsize=256)
def decide(
    stated: Stated, energy: StatedUnit, length: StatedUnit, honoured: bool
) -> tuple[Factors, tuple[str, ...], tuple[str, ...]]:
    """Return the factors, notes on used statements, and warnings on ignored ones.

    ``energy`` and ``length`` are the source's. The stated units apply if the source has the default unit and statements
    are ``honoured``. Otherwise the source's own unit applies, and a warning names the difference.
    """
    notes, warnings = [], []
    used: dict[str, StatedUnit] = {}
    default = {"energies": StatedUnit("eV", 1.0), "lengths": StatedUnit("Angstrom", 1.0)}
    for what, own, theirs in (("energies", energy, stated.energy), ("lengths", length, stated.length)):
        used[what] = own
        if theirs is None or _same(theirs, own):
            continue
        if honoured and _same(own, default[what]):
            used[what] = theirs
            notes.append(f"The data state {what} in {theirs.name}: they were converted (times {theirs.value:.9g}).")
        else:
            warnings.append(
                f"The data state {what} in {theirs.name}, and {own.name} was used, as the workflow says: "
                "remove the unit from the source to use what the data state."
                if honoured
                else f"The data state {what} in {theirs.name}, and {own.name} was used: stated_units is ignore."
            )
    forces = StatedUnit(
        f"{used['energies'].name}/{used['lengths'].name}", used["energies"].value / used["lengths"].value
    )
    if stated.forces is not None and not _same(stated.forces, forces):
        if honoured and _same(energy, default["energies"]) and _same(length, default["lengths"]):
            notes.append(
                f"The data state forces in {stated.forces.name}: they were converted (times {stated.forces.value:.9g})."
            )
            forces = stated.forces
        else:
            warnings.append(f"The data state forces in {stated.forces.name}, and {forces.name} was used.")
    return Factors(used["energies"].value, used["lengths"].value, forces.value), tuple(notes), tuple(warnings)


def _same(one: StatedUnit, other: StatedUnit) -> bool:
    return abs(one.value / other.value - 1.0) < 1e-4


_OWN_ENERGY = {
    EnergyUnit.EV: "ev", EnergyUnit.HARTREE: "ha", EnergyUnit.KCAL_MOL: "kcal/mol", EnergyUnit.KJ_MOL: "kj/mol"
}  # fmt: skip
_OWN_LENGTH = {LengthUnit.ANGSTROM: "ang", LengthUnit.BOHR: "bohr"}


def decided(stated: Stated, source: SourceSettings) -> tuple[Factors, tuple[str, ...], tuple[str, ...]]:
    """Return `decide` for a source."""
    energy, length = (
        StatedUnit(*ENERGIES[_OWN_ENERGY[source.energy_unit]]),
        StatedUnit(*LENGTHS[_OWN_LENGTH[source.length_unit]]),
    )
    return decide(stated, energy, length, source.stated_units is StatedUnits.USE)
