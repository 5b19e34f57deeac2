"""Decisions about the keys of a source, made once for all records with the same keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gfm_pipeline.apps.ingest.labels.known_keys import COUNTED, KeyKind, KeySet, plain
from gfm_pipeline.apps.ingest.labels.record_weights import WeightKey, weight_keys
from gfm_pipeline.apps.ingest.labels.target_labels import label_keys
from gfm_pipeline.core.contracts.data import ForceSign, RecordWeights, SourceSettings
from gfm_pipeline.core.contracts.targets import Target

MOST_PLANS = 1024  # kept per source


@dataclass(frozen=True)
class Remark:
    """A sentence about a record; ``warns``: it needs attention."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class LabelPlan:
    """The decisions for a source from the names of a `KeySet`.

    Attributes
    ----------
    energy, forces
        Keys of the labels; None: the reader's values.
    other
        The reader's other energy, of energy and free energy.
    rivals
        Further energies; ``undecided``: with forces of their own.
    weights
        Keys with weights of records.
    counted
        Keys whose values are counted, with their kinds.
    uses
        What keys are used as.
    labels
        Target and key of further labels.
    states_units
        Whether a key of ``units`` is present.
    counts_only, silent
        Values are only counted, without decisions; no value needs to be examined.
    """

    energy: str | None
    forces: str | None
    other: str | None
    rivals: tuple[str, ...]
    undecided: bool
    weights: tuple[WeightKey, ...]
    charge: tuple[str, ...]
    spin: tuple[str, ...]
    counted: tuple[tuple[str, KeyKind], ...]
    units: tuple[str | None, str | None, str | None]
    remarks: tuple[Remark, ...]
    uses: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    states_units: bool
    counts_only: bool
    silent: bool


def plan_of(keys: KeySet, source: SourceSettings) -> LabelPlan:
    """Return the plan of a key set for a source."""
    return _plan(
        keys,
        source.energy_key,
        source.forces_key,
        source.group_key,
        source.forces_are is ForceSign.NONE,
        tuple(source.select or ()),
        source.split_key,
        source.columns,
        tuple((source.labels or {}).items()),
        source.record_weights is RecordWeights.USE,
        frozenset(one.name for one in source.attributes if one.categories),
    )


class Plans:
    """The plans of one source, each looked up by its key set."""

    def __init__(self, source: SourceSettings) -> None:
        self.source = source
        self._known: dict[KeySet, LabelPlan] = {}

    def of(self, keys: KeySet) -> LabelPlan:
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
    targets: tuple[Target, ...],
    named: tuple[tuple[str, str], ...],
    weighted: bool,
    categories: frozenset[str],
) -> LabelPlan:
    own = keys.of(KeyKind.ENERGY, KeyKind.FREE_ENERGY)
    energy = energy_key
    if energy is None and without_forces and keys.energy is not None and keys.energy in keys.of(KeyKind.FREE_ENERGY):
        energy = next((n for n in keys.of(KeyKind.ENERGY) if plain(n) == "energy"), None)
    taken_energy, taken_forces = energy or keys.energy, forces_key or keys.forces
    other = None
    if taken_energy in own and energy_key is None:
        other = next((n for n in own if {plain(n), plain(str(taken_energy))} == {"energy", "freeenergy"}), None)
    rivals = tuple(n for n in own if n not in (taken_energy, other)) if energy_key is None and taken_energy else ()
    rival_forces = [n for n in keys.of(KeyKind.FORCES) if n != taken_forces]
    charge, spin = keys.of(KeyKind.CHARGE), keys.of(KeyKind.SPIN)
    weights = weight_keys(keys, targets, without_forces) if weighted else ()
    counted = tuple(
        (k.name, k.kind)
        for k in keys.keys
        if (k.kind in COUNTED and k.shape in ("number", "text")) or (k.kind is KeyKind.UNKNOWN and k.shape == "text")
    )
    remarks = []
    if energy_key is not None and forces_key is None and rival_forces and energy_key != keys.energy:
        remarks.append(
            Remark(
                f"The energy is {energy_key} by energy_key, and the forces are {taken_forces}, though "
                f"{' and '.join(rival_forces)} are there: set forces_key.",
                not without_forces,
            )
        )
    if keys.of(KeyKind.CELL):
        remarks.append(
            Remark(f"{keys.of(KeyKind.CELL)[0]} was not understood as a cell: the records were read without it.", True)
        )
    uses = {
        **dict.fromkeys((*charge, *spin), "kept with the record"),
        **{key.name: key.use for key in weights},
        **dict.fromkeys(selecting, "selects records"),
    }
    units = _units(keys, taken_energy, taken_forces)
    uses.update(dict.fromkeys((n for n in units if n is not None), "unit"))
    names = {k.name for k in keys.keys}
    uses.update({str(key): use for key, use in ((split_key, "split"), (group_key, "group")) if key in names})
    labels, doubts = label_keys(keys, targets, dict(named), categories)
    remarks += [Remark(text, True) for text in doubts]
    uses.update({key: target for target, key in labels if key in names})
    if taken_energy:
        uses[taken_energy] = "energy"
    if taken_forces and not without_forces:
        uses[taken_forces] = "forces"
    return LabelPlan(
        energy=energy,
        forces=forces_key,
        other=other,
        rivals=rivals,
        undecided=bool(rivals) and (without_forces or bool(rival_forces)),
        weights=weights,
        charge=charge,
        spin=spin,
        counted=counted,
        units=units,
        remarks=tuple(remarks),
        uses=tuple(uses.items()),
        labels=labels,
        states_units=any(units),
        counts_only=not (rivals or other or any(units) or weights),
        silent=not (counted or rivals or other or remarks or any(units) or weights),
    )


def _units(keys: KeySet, energy: str | None, forces: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the keys that state the units of energies, lengths and forces; a statement of the label itself first."""
    names = {plain(k.name): k.name for k in keys.keys if k.shape == "text"}

    def of(label: str | None, kind: KeyKind) -> str | None:
        own = () if label is None else (f"{plain(label)}unit", f"{plain(label)}units")
        general = next((n for n in keys.of(kind) if n in names.values()), None)
        return next((names[word] for word in own if word in names), general)

    return of(energy, KeyKind.ENERGY_UNIT), of(None, KeyKind.LENGTH_UNIT), of(forces, KeyKind.FORCES_UNIT)
