"""Interprets the keys of a record: the energy and forces to use, and the meaning of weights, units and heads.

Decisions that depend on names alone are made once for all records with the same keys (`LabelPlan`); other decisions
examine the values.

With two energies, the reader's own is used; the free energy has priority over the energy extrapolated to no smearing,
since forces are the gradient of the former. If a record has a second set of energy and forces by another name
(``REF_energy`` and ``REF_forces`` in addition to ``energy`` and ``forces``) and the two differ, the data do not
determine the choice. The record is then set aside until the source chooses by ``energy_key``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from gfm_pipeline.apps.ingest.labels.known_keys import KeyKind, KeySet
from gfm_pipeline.apps.ingest.labels.plans import LabelPlan, Remark
from gfm_pipeline.apps.ingest.labels.record_weights import record_weights
from gfm_pipeline.apps.ingest.labels.stated_units import Stated, decided, stated
from gfm_pipeline.core.contracts.data import ForceSign, SourceSettings
from gfm_pipeline.core.contracts.targets import FORCES

ROUNDING = 1e-4  # energy units of the source, per atom; and 1e-6 of the energy
LONGEST = 40  # characters of a counted value
ALL_ONE: Mapping[str, float] = {}  # weights


class NotMeantError(ValueError):
    """A record excluded by its own weights or by the source's selection; its text is the reason."""


class RecordLabels(NamedTuple):
    """The labels of a record according to a plan."""

    energy: Any
    forces: Any
    charge: tuple[str, ...] = ()
    spin: tuple[str, ...] = ()
    stated_keys: tuple[tuple[str, KeyKind, str], ...] = ()
    remarks: tuple[Remark, ...] = ()
    fault: str | None = None
    units: Stated | None = None
    omits_forces: bool = False
    weights: Mapping[str, float] = ALL_ONE  # by target, those other than 1


def interpret(
    plan: LabelPlan, find: Callable[[str], Any], energy: Any, forces: Any, natoms: int, source: SourceSettings
) -> RecordLabels:
    """Return the labels of a record.

    Parameters
    ----------
    plan
        Plan of its key set.
    find
        Returns the value of a key, or None.
    energy, forces
        Values from the reader.
    natoms
        Number of its atoms.
    source
        Source of the record.

    Raises
    ------
    NotMeantError
        When a weight of 0 excludes the record.
    """
    energy = energy if plan.energy is None else find(plan.energy)
    forces = forces if plan.forces is None else find(plan.forces)
    if plan.silent:
        return RecordLabels(energy, forces, plan.charge, plan.spin)
    if plan.counts_only:
        return RecordLabels(energy, forces, plan.charge, plan.spin, _stated_keys(plan, find), plan.remarks)
    remarks = list(plan.remarks)
    fault = _rivalry(plan, find, energy, natoms, source, remarks)
    stated_weights = record_weights(plan.weights, find)
    if stated_weights.excluded is not None:
        raise NotMeantError(stated_weights.excluded)
    remarks += [Remark(*remark) for remark in stated_weights.remarks]
    omits = stated_weights.weights.get(FORCES.name) == 0
    units = _stated(plan, find, source, remarks) if plan.states_units else None
    return RecordLabels(
        energy,
        None if omits else forces,
        plan.charge,
        plan.spin,
        _stated_keys(plan, find),
        tuple(remarks),
        fault or stated_weights.fault,
        units,
        omits,
        stated_weights.weights,
    )


def _stated_keys(plan: LabelPlan, find: Callable[[str], Any]) -> tuple[tuple[str, KeyKind, str], ...]:
    return tuple(
        [
            (name, kind, value_text(find(name) if kind is not KeyKind.UNKNOWN else _unasked(find, name)))
            for name, kind in plan.counted
        ]
    )


def _unasked(find: Callable[[str], Any], name: str) -> Any:
    """Return the value of a key that was not requested; an unreadable value does not cost the record."""
    try:
        return find(name)
    except Exception:  # noqa: BLE001 - of any reader
        return None


def _stated(plan: LabelPlan, find: Callable[[str], Any], source: SourceSettings, remarks: list[Remark]) -> Stated:
    """Return the units that a record states, and note how they compare to the source's."""
    stating = [None if name is None else find(name) for name in plan.units]
    texts = [None if value is None else str(value) for value in stating]
    units = stated(*texts)
    for name, text, known in zip(plan.units, texts, (units.energy, units.length, units.forces), strict=True):
        if text is not None and known is None:
            remarks.append(Remark(f"{name} says {str(text)[:LONGEST]!r}, which is not a unit known here.", True))
    _, notes, warnings = decided(units, source)
    remarks += [*map(Remark, notes), *(Remark(text, True) for text in warnings)]
    return units


def _rivalry(
    plan: LabelPlan, find: Callable[[str], Any], energy: Any, natoms: int, source: SourceSettings, remarks: list[Remark]
) -> str | None:
    """Note energies that differ from the used one; return the fault if the data do not determine the choice."""
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
    """Return a value as text for counts and selections: whole numbers without a decimal point."""
    found = None if isinstance(value, str) else number(value)
    if found is not None:
        return f"{found:.12g}"
    return "none" if value is None else str(value)[:LONGEST]


def selected(select: dict[str, tuple[str, ...]], find: Callable[[str], Any]) -> str | None:
    """Return why a record is not selected, or None."""
    for key, allowed in select.items():
        value = value_text(find(key))
        if value not in allowed:
            return f"{key} is {value}, not {' or '.join(allowed)}"
    return None


def missing(keys: KeySet | None, what: str) -> str:
    """Return the hint for a record without energy or forces: its keys with similar names."""
    if keys is None:
        return ""
    searched = {
        "energy_key": (keys.energy, (KeyKind.ENERGY, KeyKind.FREE_ENERGY)),
        "forces_key": (keys.forces, (KeyKind.FORCES,)),
    }
    like = {key: keys.of(*candidates, declared=False) for key, (taken, candidates) in searched.items() if taken is None}
    found = {key: names for key, names in like.items() if names}
    if f"{what}_key" not in found:
        return ""
    names = " and ".join(name for some in found.values() for name in some[:3])
    settings = ", ".join(f"{key}: {some[0]}" for key, some in found.items())
    return f": the record has {names}; set {settings}"
