"""From the keys of a record to its labels: which energy and forces are used, and what weights, units and heads say.

What can be decided from the names alone is decided once for all records of one make (`Plan`); the values are looked at
where a decision depends on them.

Two energies: the reader's own is used, the free energy before the energy extrapolated to no smearing, since forces are
the gradient of the former. Where a record has a second set of energy and forces by another name (``REF_energy`` and
``REF_forces`` beside ``energy`` and ``forces``) and the two differ, nothing in the data says which is meant: the record
is set aside until the source says so by ``energy_key``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from gfm_pipeline.apps.ingest.labels.known_keys import COUNTED, KeySet, Kind, plain
from gfm_pipeline.apps.ingest.labels.stated_units import Stated, decided, stated
from gfm_pipeline.core.contracts.data import ForceSign, SourceSettings

ROUNDING = 1e-4  # energy units of the source, an atom; and 1e-6 of the energy
MOST_PLANS = 1024  # kept of a source
LONGEST = 40  # characters of a value that is counted


class NotMeantError(ValueError):
    """A record that its own weights or the source's selection leave out; its text is the reason."""


@dataclass(frozen=True)
class Remark:
    """A sentence about a record; ``warns`` where it should be looked at."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class Plan:
    """What the names of a `KeySet` decide for a source.

    Attributes
    ----------
    energy, forces
        Keys to read the labels from; None: what the reader gives.
    other
        The reader's other energy, of energy and free energy.
    rivals
        Further energies; ``undecided``: with forces of their own.
    no_energy, no_forces, nothing
        Weights that, being 0, leave out the energy, the forces, or the record.
    counted
        Keys whose values are counted, with their kinds.
    uses
        What keys are used as.
    states_units
        Whether a key of ``units`` is there.
    counts_only, silent
        Values are counted, and decide nothing; none has to be looked at.
    """

    energy: str | None
    forces: str | None
    other: str | None
    rivals: tuple[str, ...]
    undecided: bool
    no_energy: tuple[str, ...]
    no_forces: tuple[str, ...]
    nothing: tuple[str, ...]
    charge: tuple[str, ...]
    spin: tuple[str, ...]
    counted: tuple[tuple[str, Kind], ...]
    units: tuple[str | None, str | None, str | None]
    remarks: tuple[Remark, ...]
    uses: tuple[tuple[str, str], ...]
    states_units: bool
    counts_only: bool
    silent: bool


def plan_of(keys: KeySet, source: SourceSettings) -> Plan:
    """Return the plan of a key set for a source."""
    return _plan(
        keys,
        source.energy_key,
        source.forces_key,
        source.group_key,
        source.forces_are is ForceSign.NONE,
        tuple(source.select or ()),
        source.split_key,
    )


class Plans:
    """The plans of one source, each looked up by its key set."""

    def __init__(self, source: SourceSettings) -> None:
        self.source = source
        self._known: dict[KeySet, Plan] = {}

    def of(self, keys: KeySet) -> Plan:
        """Return the plan of a key set."""
        found = self._known.get(keys)
        if found is None:
            if len(self._known) >= MOST_PLANS:
                self._known.clear()
            found = self._known[keys] = plan_of(keys, self.source)
        return found


@lru_cache(maxsize=1024)
def _plan(
    keys: KeySet,
    energy_key: str | None,
    forces_key: str | None,
    group_key: str | None,
    without_forces: bool,
    selecting: tuple[str, ...],
    split_key: str | None,
) -> Plan:
    own = keys.of(Kind.ENERGY, Kind.FREE_ENERGY)
    energy = energy_key
    if energy is None and without_forces and keys.energy is not None and keys.energy in keys.of(Kind.FREE_ENERGY):
        energy = next((n for n in keys.of(Kind.ENERGY) if plain(n) == "energy"), None)
    taken_energy, taken_forces = energy or keys.energy, forces_key or keys.forces
    other = None
    if taken_energy in own and energy_key is None:
        other = next((n for n in own if {plain(n), plain(str(taken_energy))} == {"energy", "freeenergy"}), None)
    rivals = tuple(n for n in own if n not in (taken_energy, other)) if energy_key is None and taken_energy else ()
    rival_forces = [n for n in keys.of(Kind.FORCES) if n != taken_forces]
    charge, spin = keys.of(Kind.CHARGE), keys.of(Kind.SPIN)
    weights = (keys.of(Kind.ENERGY_WEIGHT), () if without_forces else keys.of(Kind.FORCES_WEIGHT), keys.of(Kind.WEIGHT))
    counted = tuple((k.name, k.kind) for k in keys.keys if k.kind in COUNTED and k.shape in ("number", "text"))
    remarks = []
    if energy_key is not None and forces_key is None and rival_forces and energy_key != keys.energy:
        remarks.append(
            Remark(
                f"The energy is {energy_key} by energy_key, and the forces are {taken_forces}, though "
                f"{' and '.join(rival_forces)} are there: set forces_key.",
                not without_forces,
            )
        )
    if keys.of(Kind.CELL):
        remarks.append(
            Remark(f"{keys.of(Kind.CELL)[0]} was not understood as a cell: the records were read without it.", True)
        )
    uses = {
        **dict.fromkeys((*charge, *spin), "kept with the record"),
        **dict.fromkeys((n for names in weights for n in names), "0 leaves out; not used otherwise"),
        **dict.fromkeys(selecting, "selects records"),
    }
    units = _units(keys, taken_energy, taken_forces)
    uses.update(dict.fromkeys((n for n in units if n is not None), "unit"))
    names = {k.name for k in keys.keys}
    uses.update({str(key): use for key, use in ((split_key, "split"), (group_key, "group")) if key in names})
    if taken_energy:
        uses[taken_energy] = "energy"
    if taken_forces and not without_forces:
        uses[taken_forces] = "forces"
    return Plan(
        energy=energy,
        forces=forces_key,
        other=other,
        rivals=rivals,
        undecided=bool(rivals) and (without_forces or bool(rival_forces)),
        no_energy=weights[0],
        no_forces=weights[1],
        nothing=weights[2],
        charge=charge,
        spin=spin,
        counted=counted,
        units=units,
        remarks=tuple(remarks),
        uses=tuple(uses.items()),
        states_units=any(units),
        counts_only=not (rivals or other or any(units) or any(weights)),
        silent=not (counted or rivals or other or remarks or any(units)),
    )


def _units(keys: KeySet, energy: str | None, forces: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the keys that state the units of energies, lengths and forces; a statement of the label itself first."""
    names = {plain(k.name): k.name for k in keys.keys if k.shape == "text"}

    def of(label: str | None, kind: Kind) -> str | None:
        own = () if label is None else (f"{plain(label)}unit", f"{plain(label)}units")
        general = next((n for n in keys.of(kind) if n in names.values()), None)
        return next((names[word] for word in own if word in names), general)

    return of(energy, Kind.ENERGY_UNIT), of(None, Kind.LENGTH_UNIT), of(forces, Kind.FORCES_UNIT)


class Labels(NamedTuple):
    """What a record says, by a plan."""

    energy: Any
    forces: Any
    charge: tuple[str, ...] = ()
    spin: tuple[str, ...] = ()
    said: tuple[tuple[str, Kind, str], ...] = ()
    remarks: tuple[Remark, ...] = ()
    fault: str | None = None
    units: Stated | None = None
    omits_forces: bool = False


def interpret(
    plan: Plan, find: Callable[[str], Any], energy: Any, forces: Any, natoms: int, source: SourceSettings
) -> Labels:
    """Return the labels of a record.

    Parameters
    ----------
    plan
        Of its key set.
    find
        Returns the value of a key, or None.
    energy, forces
        What the reader gives.
    natoms
        Number of its atoms.
    source
        Whose record it is.

    Raises
    ------
    NotMeantError
        When a weight of 0 leaves the record out.
    """
    energy = energy if plan.energy is None else find(plan.energy)
    forces = forces if plan.forces is None else find(plan.forces)
    if plan.silent:
        return Labels(energy, forces, plan.charge, plan.spin)
    if plan.counts_only:
        return Labels(energy, forces, plan.charge, plan.spin, _said(plan, find), plan.remarks)
    remarks = list(plan.remarks)
    fault = _rivalry(plan, find, energy, natoms, source, remarks)
    omits = _weighed(plan, find, remarks)
    units = _stated(plan, find, source, remarks) if plan.states_units else None
    forces = None if omits else forces
    return Labels(energy, forces, plan.charge, plan.spin, _said(plan, find), tuple(remarks), fault, units, omits)


def _said(plan: Plan, find: Callable[[str], Any]) -> tuple[tuple[str, Kind, str], ...]:
    return tuple([(name, kind, value_text(find(name))) for name, kind in plan.counted])


def _stated(plan: Plan, find: Callable[[str], Any], source: SourceSettings, remarks: list[Remark]) -> Stated:
    """Return the units that a record states, and note what they say of the source's."""
    stating = [None if name is None else find(name) for name in plan.units]
    texts = [None if value is None else str(value) for value in stating]
    units = stated(*texts)
    for name, text, known in zip(plan.units, texts, (units.energy, units.length, units.forces), strict=True):
        if text is not None and known is None:
            remarks.append(Remark(f"{name} says {str(text)[:LONGEST]!r}, which is no unit known here.", True))
    _, notes, warnings = decided(units, source)
    remarks += [*map(Remark, notes), *(Remark(text, True) for text in warnings)]
    return units


def _rivalry(
    plan: Plan, find: Callable[[str], Any], energy: Any, natoms: int, source: SourceSettings, remarks: list[Remark]
) -> str | None:
    """Note energies that differ from the one used; return the fault where the data do not say which is meant."""
    mine = number(energy) if plan.other or plan.rivals else None
    if mine is None:
        return None
    used = next((name for name, use in plan.uses if use == "energy"), "the reader's energy")
    if plan.other is not None and _differ(mine, number(find(plan.other)), natoms):
        why = "forces are not read" if source.forces_are is ForceSign.NONE else "forces are the gradient of it"
        remarks.append(Remark(f"{used} was read as the energy, not {plan.other}, which differs: {why}."))
    for name in plan.rivals:
        if not _differ(mine, number(find(name)), natoms):
            continue
        if plan.undecided:
            return (
                f"two sets of labels: {used} is {mine:.6g} and {name} is {number(find(name)):.6g}, and nothing says "
                f"which is meant; set energy_key (and forces_key), e.g. energy_key: {name}"
            )
        remarks.append(
            Remark(
                f"{used} was read as the energy, beside which the forces stand; {name} differs and is not used.", True
            )
        )
    return None


def _weighed(plan: Plan, find: Callable[[str], Any], remarks: list[Remark]) -> bool:
    """Return whether a weight of 0 leaves the forces out; raise where one leaves the record out."""
    for name in (*plan.nothing, *plan.no_energy):
        weight = number(find(name))
        if weight == 0:
            raise NotMeantError(f"{name} is 0")
        if weight not in (1, None):
            remarks.append(Remark(f"{name} is not 1: weights weigh nothing here, but for 0.", True))
    omits = False
    for name in plan.no_forces:
        weight = number(find(name))
        if weight == 0:
            omits = True
            remarks.append(Remark(f"{name} is 0: the forces were left out, and the energy was kept."))
        elif weight not in (1, None):
            remarks.append(Remark(f"{name} is not 1: weights weigh nothing here, but for 0.", True))
    return omits


def _differ(one: float, other: float | None, natoms: int) -> bool:
    return other is not None and abs(one - other) > ROUNDING * natoms + 1e-6 * abs(one)


def number(value: Any) -> float | None:
    """Return a finite number, or the one of an array that holds one; else None."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        found = float(value)
        return found if isfinite(found) else None
    return None


def value_text(value: Any) -> str:
    """Return a value as it is counted and selected by: whole numbers without a point."""
    found = None if isinstance(value, str) else number(value)
    if found is not None:
        return f"{found:.12g}"
    return "none" if value is None else str(value)[:LONGEST]


def selected(select: dict[str, tuple[str, ...]], find: Callable[[str], Any]) -> str | None:
    """Return why a record is not selected; None where it is."""
    for key, wanted in select.items():
        value = value_text(find(key))
        if value not in wanted:
            return f"{key} is {value}, not {' or '.join(wanted)}"
    return None


def missing(keys: KeySet | None, what: str) -> str:
    """Return the hint for a record without energy or forces: what it has that looks like one."""
    if keys is None:
        return ""
    looked = {"energy_key": (keys.energy, (Kind.ENERGY, Kind.FREE_ENERGY)), "forces_key": (keys.forces, (Kind.FORCES,))}
    like = {key: keys.of(*kinds, declared=False) for key, (taken, kinds) in looked.items() if taken is None}
    found = {key: names for key, names in like.items() if names}
    if f"{what}_key" not in found:
        return ""
    names = " and ".join(name for some in found.values() for name in some[:3])
    settings = ", ".join(f"{key}: {some[0]}" for key, some in found.items())
    return f": the record has {names}; set {settings}"
