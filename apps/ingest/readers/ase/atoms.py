"""Atoms of ASE as frames, and the choice of the energy that belongs to the forces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ase import Atoms

from gfm_pipeline.apps.ingest.files.file_reader import Frame
from gfm_pipeline.apps.ingest.labels.known_keys import KeySet, KeySets

ENERGY_NAMES = ("energy", "free_energy")
FORCE_NAMES = ("forces", "force")  # JuLIP and ACE files use "force"
STRUCTURE = frozenset({"pos", "species", "Z", "positions", "numbers"})
_KEY_SETS = KeySets()


def atoms_frame(atoms: Atoms, extra: Mapping[str, Any] | None = None) -> Frame:
    """Return ASE's atoms with the labels of their calculator, or else their own, as a frame."""
    results: Mapping[str, Any] = {} if atoms.calc is None else atoms.calc.results
    places = (results, atoms.arrays, {**(extra or {}), **atoms.info})

    def find(name: str) -> Any:
        return next((place[name] for place in places if place.get(name) is not None), None)

    forces = first(find, FORCE_NAMES)
    keys = _KEY_SETS.get(
        ("atoms", forces is None, *(tuple(place) for place in places)),
        lambda: ((name, find(name)) for place in places for name in place if name not in STRUCTURE),
        len(atoms),
        energy_name([n for n in ENERGY_NAMES if find(n) is not None], forces is not None),
        next((n for n in FORCE_NAMES if find(n) is not None), None),
    )
    return Frame(
        numbers=atoms.numbers,
        pos=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        energy=energy_of(keys, find),
        forces=forces,
        find=find,
        keys=keys,
    )


def energy_name(names: Sequence[str], with_forces: bool) -> str | None:
    """Return the name of the energy: with forces, the energy whose gradient they are."""
    preferred = ("free_energy", "energy") if with_forces else ENERGY_NAMES
    return next((name for name in preferred if name in names), None)


def energy_of(keys: KeySet, find: Callable[[str], Any]) -> Any:
    """Return the energy of a record by its keys."""
    if keys.energy is None:
        return None
    energy = find(keys.energy)
    return energy if energy is not None else first(find, ENERGY_NAMES)


def first(find: Callable[[str], Any], names: tuple[str, ...]) -> Any:
    """Return the first existing value of these names, or None."""
    return next((value for value in map(find, names) if value is not None), None)
