"""The declarations of the meaning of names of labels and metadata in data files.

Comparisons of names ignore case and all characters other than letters and digits, so ``REF_energy``, ``ref-energy`` and
``RefEnergy`` are equal. `QUALIFIERS` before or after a name state the origin of a label, not its meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gfm_pipeline.core.strenum import StrEnum


class KeyKind(StrEnum):
    """The meaning of a key."""

    ENERGY = "energy"
    FREE_ENERGY = "free energy"
    FORCES = "forces"
    STRESS = "stress"
    VIRIAL = "virial"
    DIPOLE = "dipole"
    MAGMOMS = "magnetic moments"
    CHARGES = "charges of atoms"
    WEIGHT = "weight"
    ENERGY_WEIGHT = "weight of the energy"
    FORCES_WEIGHT = "weight of the forces"
    OTHER_WEIGHT = "weight of another label"
    HEAD = "head or method"
    CONFIG_TYPE = "configuration type"
    CHARGE = "total charge"
    SPIN = "spin multiplicity"
    ENERGY_UNIT = "unit of energies"
    LENGTH_UNIT = "unit of lengths"
    FORCES_UNIT = "unit of forces"
    OTHER_UNIT = "unit of another label"
    CELL = "cell that was not understood"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class KnownKey:
    """A kind, and its names in lower case with letters and digits only, in the order of preference of readers."""

    kind: KeyKind
    names: tuple[str, ...]


KNOWN = (
    KnownKey(
        KeyKind.ENERGY,
        ("energy", "energies", "totenergy", "totalenergy", "etot", "potentialenergy", "epot", "toten", "totale"),
    ),
    KnownKey(KeyKind.FREE_ENERGY, ("freeenergy", "efree", "forceconsistentenergy")),
    KnownKey(KeyKind.FORCES, ("forces", "force", "gradient", "gradients", "atomicforces")),
    KnownKey(KeyKind.STRESS, ("stress", "stresses", "stresstensor")),
    KnownKey(KeyKind.VIRIAL, ("virial", "virials", "virialtensor")),
    KnownKey(KeyKind.DIPOLE, ("dipole", "dipolemoment", "dipoles", "mu", "totaldipole")),
    KnownKey(KeyKind.MAGMOMS, ("magmom", "magmoms", "initialmagmoms", "magneticmoments", "magneticmoment", "spins")),
    KnownKey(
        KeyKind.CHARGES,
        ("charges", "initialcharges", "atomiccharges", "partialcharges", "hirshfeldcharges", "mullikencharges", "qs"),
    ),
    KnownKey(KeyKind.WEIGHT, ("configweight", "weight", "sampleweight", "weights")),
    KnownKey(KeyKind.ENERGY_WEIGHT, ("configenergyweight", "energyweight", "weightenergy", "eweight")),
    KnownKey(
        KeyKind.FORCES_WEIGHT,
        ("configforcesweight", "configforceweight", "forcesweight", "forceweight", "weightforces", "fweight"),
    ),
    KnownKey(
        KeyKind.OTHER_WEIGHT,
        ("configstressweight", "configvirialsweight", "configvirialweight", "stressweight", "virialweight", "vweight"),
    ),
    KnownKey(
        KeyKind.HEAD,
        (
            "head", "functional", "xc", "xcfunctional", "dftfunctional", "method", "theory", "leveloftheory",
            "calculator", "dataset", "datasetname", "basis", "basisset",
        ),
    ),
    KnownKey(KeyKind.CONFIG_TYPE, ("configtype", "configurationtype", "structuretype")),
    KnownKey(KeyKind.CHARGE, ("charge", "totalcharge", "netcharge", "systemcharge", "molecularcharge", "totcharge")),
    KnownKey(KeyKind.SPIN, ("spin", "spinmultiplicity", "multiplicity", "totalspin")),
    KnownKey(KeyKind.ENERGY_UNIT, ("energyunit", "energyunits", "unitenergy", "unitsenergy", "unit", "units")),
    KnownKey(
        KeyKind.LENGTH_UNIT,
        (
            "lengthunit", "lengthunits", "distanceunit", "distanceunits", "positionunit", "positionsunit",
            "coordinateunit", "coordinatesunit", "unitlength", "posunit",
        ),
    ),
    KnownKey(KeyKind.FORCES_UNIT, ("forcesunit", "forceunit", "forceunits", "forcesunits", "unitforces", "unitforce")),
    KnownKey(KeyKind.CELL, ("cell", "lattice", "unitcell", "latticevectors", "box")),
)  # fmt: skip
QUALIFIERS = ("ref", "reference", "dft", "qm", "target", "label", "true", "corrected", "uncorrected")
# Endings of undeclared names that look like labels.
ENDINGS = {"energy": KeyKind.ENERGY, "forces": KeyKind.FORCES, "unit": KeyKind.OTHER_UNIT, "units": KeyKind.OTHER_UNIT}
_KIND_OF = {name: known.kind for known in KNOWN for name in known.names}
# Kinds whose values distinguish records and are counted.
COUNTED = frozenset(
    {
        KeyKind.HEAD,
        KeyKind.CONFIG_TYPE,
        KeyKind.CHARGE,
        KeyKind.SPIN,
        KeyKind.WEIGHT,
        KeyKind.ENERGY_WEIGHT,
        KeyKind.FORCES_WEIGHT,
    }
    | {KeyKind.ENERGY_UNIT, KeyKind.LENGTH_UNIT, KeyKind.FORCES_UNIT}
)
UNITS = frozenset({KeyKind.ENERGY_UNIT, KeyKind.LENGTH_UNIT, KeyKind.FORCES_UNIT, KeyKind.OTHER_UNIT})
# Texts of undeclared keys are counted too: one of them may explain differences of energies. One branch of a model
# should see a single value of each of these.
MIXING = frozenset({KeyKind.HEAD, KeyKind.CONFIG_TYPE, KeyKind.CHARGE, KeyKind.SPIN})


def plain(name: str) -> str:
    """Return a name in lower case with letters and digits only; of a dotted path, its last part."""
    return re.sub(r"[^a-z0-9]", "", name.rpartition(".")[2].lower()) or re.sub(r"[^a-z0-9]", "", name.lower())


def bare_names(name: str) -> list[str]:
    """Return all forms of a name without one of `QUALIFIERS`."""
    word = plain(name)
    words: list[str] = []
    for qualifier in QUALIFIERS:
        words += [word.removeprefix(qualifier)] if word.startswith(qualifier) else []
        words += [word.removesuffix(qualifier)] if word.endswith(qualifier) else []
    return words


def kind_of(name: str, shape: str = "number") -> tuple[KeyKind, bool]:
    """Return the meaning of a name, and whether it is declared or only similar."""
    word = plain(name)
    for candidate in (word, *bare_names(name)):
        if candidate in _KIND_OF:
            kind = _KIND_OF[candidate]
            per_atom = shape.startswith("[N")
            return (KeyKind.CHARGES if kind is KeyKind.CHARGE and per_atom else kind), True
    return next(((kind, False) for end, kind in ENDINGS.items() if word.endswith(end)), (KeyKind.UNKNOWN, False))


@dataclass(frozen=True)
class LabelKey:
    """A key of a record; ``declared``: the name is in the table, not only similar."""

    name: str
    kind: KeyKind
    declared: bool
    shape: str


@dataclass(frozen=True, eq=False)
class KeySet:
    """The keys of records of equal layout; ``energy`` and ``forces`` are those that the reader uses as labels.

    Records of a file share one key set, so comparison is by identity.
    """

    keys: tuple[LabelKey, ...]
    energy: str | None = None
    forces: str | None = None

    def of(self, *kinds: KeyKind, declared: bool = True) -> tuple[str, ...]:
        """Return the names of some kinds, in the order of the kinds."""
        return tuple(k.name for kind in kinds for k in self.keys if k.kind is kind and (k.declared or not declared))


def shape_of(value: Any, natoms: int) -> str:
    """Return the shape of a value in the form of `KeyFound`."""
    if isinstance(value, (str, bytes)):
        return "text"
    if isinstance(value, dict):
        return "mapping"
    try:
        sizes = np.shape(value)
    except ValueError:
        return "list"
    return (
        f"[{', '.join('N' if n == natoms and k == 0 else str(n) for k, n in enumerate(sizes))}]" if sizes else "number"
    )


class KeySets:
    """A cache of a reader's key sets, so that each layout of records is examined once."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._known: dict[Any, KeySet] = {}

    def known(self, identity: Any) -> KeySet | None:
        """Return the known key set of an identity, or None."""
        return self._known.get(identity)

    def get(
        self,
        identity: Any,
        items: Callable[[], Iterable[tuple[str, Any]]],
        natoms: int,
        energy: str | None = None,
        forces: str | None = None,
    ) -> KeySet:
        """Return the key set of an identity; for a new one, ``items`` returns names and values."""
        found = self._known.get(identity)
        if found is None:
            if len(self._known) >= self._most:
                self._known.clear()
            known: dict[str, LabelKey] = {}
            for name, value in items():
                if value is not None and name not in known:
                    shape = shape_of(value, natoms)
                    known[name] = LabelKey(name, *kind_of(name, shape), shape)
            found = self._known[identity] = KeySet(tuple(known.values()), energy, forces)
        return found

    def of(self, values: Mapping[str, Any], natoms: int, energy: str | None, forces: str | None) -> KeySet:
        """Return the key set of a record whose labels and metadata are ``values``, by their names."""
        energy, forces = (name if values.get(str(name)) is not None else None for name in (energy, forces))
        return self.get((energy, forces, *values), values.items, natoms, energy, forces)


def unit_statements(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the units that metadata of a database state, by key; those of a property are ``property unit``."""
    found: dict[str, str] = {}
    for name, value in metadata.items():
        if isinstance(value, str) and kind_of(name)[0] in UNITS:
            found[name] = value
        elif isinstance(value, Mapping) and "unit" in plain(name):
            found.update({f"{label} unit": unit for label, unit in value.items() if isinstance(unit, str)})
    return found


@lru_cache(maxsize=256)
def taking(keys: KeySet, energy: str) -> KeySet:
    """Return the same keys for a reader that uses another energy."""
    return KeySet(keys.keys, energy, keys.forces)
