"""Weights that records state: which keys hold them, which targets they weight, and their values.

The weight of a label in the loss is the product of the record's weight and the weight of its target, as in MACE and the
Gaussian approximation potentials (``config_weight``, ``config_energy_weight``, ``config_forces_weight``, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from gfm_pipeline.apps.ingest.labels.known_keys import KeyKind, KeySet, bare_names, plain
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, Origin, Target

LARGEST = 1e6
AMBIGUOUS = frozenset(("weight", "weights"))  # may also be molar masses
_FORMS = ("config{}weight", "{}weight", "weight{}")


@dataclass(frozen=True)
class WeightKey:
    """A key with a weight; ``targets`` are those whose labels it weights, in addition to all if ``whole``."""

    name: str
    targets: tuple[str, ...]
    whole: bool = False

    @property
    def use(self) -> str:
        """What the key is used as."""
        return f"weight of {'the record' if self.whole else ' and '.join(self.targets)} in the loss"


@dataclass(frozen=True)
class StatedWeights:
    """The weights of a record.

    ``weights`` are those other than 1, by target. ``excluded`` says which weight of 0 leaves the record out, and
    ``fault`` which weight is none. ``remarks`` are sentences, and whether each needs attention.
    """

    weights: dict[str, float] = field(default_factory=dict)
    excluded: str | None = None
    fault: str | None = None
    remarks: tuple[tuple[str, bool], ...] = ()


def weight_keys(keys: KeySet, targets: Sequence[Target], without_forces: bool) -> tuple[WeightKey, ...]:
    """Return the keys of a key set that weight records, or their labels of energy, forces and ``targets``."""
    of_kind = {ENERGY.name: KeyKind.ENERGY_WEIGHT} | ({} if without_forces else {FORCES.name: KeyKind.FORCES_WEIGHT})
    found = {name: [*keys.of(kind)] for name, kind in of_kind.items()}
    for target in targets:
        names = {form.format(plain(name)) for name in target.names for form in _FORMS}
        mine = [k.name for k in keys.keys if names & {plain(k.name), *bare_names(k.name)}]
        if target.origin is Origin.STRAIN:  # its label may be a virial
            mine += [name for name in keys.of(KeyKind.OTHER_WEIGHT) if name not in mine]
        found[target.name] = mine
    by_key: dict[str, tuple[str, ...]] = {}
    for target_name, names_of in found.items():
        for name in names_of:
            by_key[name] = (*by_key.get(name, ()), target_name)
    every = tuple(found)
    whole = tuple(WeightKey(name, every, whole=True) for name in keys.of(KeyKind.WEIGHT) if name not in by_key)
    return (*whole, *(WeightKey(name, names_of) for name, names_of in by_key.items()))


def record_weights(keys: Sequence[WeightKey], find: Callable[[str], Any]) -> StatedWeights:
    """Return the weights of a record; ``find`` returns the value of a key, or None."""
    weights: dict[str, float] = {}
    remarks: list[tuple[str, bool]] = []
    for key in keys:
        value = find(key.name)
        if isinstance(value, np.ndarray) and value.size != 1:
            remarks.append((f"{key.name} has several numbers in a record, and was not used as a weight.", True))
            continue
        weight = _number(value)
        if weight is None:
            problem = f"{key.name} is {str(value).strip()[:40]}, and not a number from 0 to {LARGEST:,.0f}"
            return StatedWeights(fault=f"unusable weight: {problem}; correct it, or set record_weights: ignore")
        if weight == 0 and (key.whole or ENERGY.name in key.targets):
            return StatedWeights(excluded=f"{key.name} is 0")
        if weight == 0:
            labels = " and ".join(key.targets)
            remarks.append((f"{key.name} is 0: the labels of {labels} were left out, and the energy was kept.", False))
        elif weight != 1:
            remarks.append((f"{key.name} is the {key.use}.", False))
            if plain(key.name) in AMBIGUOUS:
                remarks.append((f"{key.name} was read as a weight in the loss: record_weights: ignore if not.", True))
        for name in key.targets if weight != 1 else ():
            weights[name] = weights.get(name, 1.0) * weight
    return StatedWeights({name: min(weight, LARGEST) for name, weight in weights.items()}, remarks=tuple(remarks))


def _number(value: Any) -> float | None:
    """Return a weight; 1 if there is none, None if the value is no weight."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return 1.0 if value is None else None
    try:
        found = float(value.item() if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError):
        return None
    return found if isfinite(found) and 0 <= found <= LARGEST else None
