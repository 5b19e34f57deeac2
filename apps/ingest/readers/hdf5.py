"""HDF5 files of molecular data sets; every group of conformers of one molecule is read at once.

The layouts, with N atoms and C conformers:

- ANI-1x and ANI-1ccx, https://github.com/aiqm/ANI1x_datasets: a group per formula, ``atomic_numbers`` [N],
  ``coordinates`` [C, N, 3], ``wb97x_dz.energy`` [C], ``wb97x_dz.forces`` [C, N, 3], and further labels; Hartree.
- ANI-1, ANI-2x and COMP6, https://github.com/isayev/ANI1_dataset: groups at any depth with ``species`` [N] (or
  numbers [C, N]), ``coordinates``, ``energies``, and sometimes ``forces``, which in COMP6
  are gradients (a source says so: ``force_sign: gradients``); Hartree.
- QM7-X, https://zenodo.org/records/4288677: molecule, then conformer, with ``atNUM`` [N], ``atXYZ`` [N, 3],
  ``ePBE0+MBD`` [1], ``totFOR`` [N, 3]; eV.
- Transition1x, https://gitlab.com/matschreiner/Transition1x: ``data``, formula, reaction, with ``atomic_numbers``,
  ``positions`` [C, N, 3], ``wB97x_6-31G(d).energy`` [C], ``wB97x_6-31G(d).forces``; eV. The groups ``train``, ``val``
  and ``test`` repeat what is in ``data``, reactant, product and transition state what is in the reaction.
- SPICE, https://github.com/openmm/spice-dataset: a group a molecule, ``atomic_numbers`` [N], ``conformations``
  [C, N, 3] (Bohr), ``dft_total_energy`` [C] (Hartree), ``dft_total_gradient`` [C, N, 3] (Hartree/Bohr).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import h5py
import numpy as np
from ase import units
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.files.hdf5_links import own
from gfm_pipeline.apps.ingest.labels.known_keys import KeySet, KeySets
from gfm_pipeline.apps.ingest.labels.plans import Remark
from gfm_pipeline.apps.ingest.labels.stated_units import energy_unit
from gfm_pipeline.apps.ingest.readers.species import number_of
from gfm_pipeline.apps.ingest.records import disk_trouble
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.options import Hdf5Layout, Hdf5Options
from gfm_pipeline.core.contracts.sources import parse_options


@dataclass(frozen=True)
class GroupLayout:
    """Names of the arrays, and the units of energies in eV and of lengths in Angstrom.

    ``single``: a group is one conformer. ``gradients``: what stands for forces is the gradient of the energy.
    """

    numbers: str
    pos: str
    energy: str
    forces: str
    energy_unit: float = 1.0
    single: bool = False
    root: str = "/"
    length_unit: float = 1.0
    gradients: bool = False


LAYOUTS = {
    Hdf5Layout.ANI_1X: GroupLayout(
        "atomic_numbers", "coordinates", "wb97x_dz.energy", "wb97x_dz.forces", units.Hartree
    ),
    Hdf5Layout.ANI_1: GroupLayout("species", "coordinates", "energies", "forces", units.Hartree),
    Hdf5Layout.QM7X: GroupLayout("atNUM", "atXYZ", "ePBE0+MBD", "totFOR", single=True),
    Hdf5Layout.TRANSITION1X: GroupLayout(
        "atomic_numbers", "positions", "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces", root="/data"
    ),
    Hdf5Layout.SPICE: GroupLayout(
        "atomic_numbers",
        "conformations",
        "dft_total_energy",
        "dft_total_gradient",
        units.Hartree,
        length_unit=units.Bohr,
        gradients=True,
    ),
}


_KEY_SETS = KeySets()


class Hdf5Reader(FileReader):
    """Reads one layout. Energies and forces are given in eV and Angstrom."""

    default_group = "molecule"

    def converted(self, source: SourceSettings) -> tuple[str, ...]:
        """Say what is done to energies in Hartree."""
        options = parse_options(source.reader, source.options)
        if not isinstance(options, Hdf5Options):
            return ()
        layout = LAYOUTS[options.layout]
        sentences = []
        if layout.energy_unit != 1.0:
            sentences.append(f"Energies and forces were converted from Ha to eV (times {layout.energy_unit:.9g}).")
        if layout.length_unit != 1.0:
            sentences.append(f"Lengths were converted from Bohr to Angstrom (times {layout.length_unit:.9g}).")
        if layout.gradients and source.forces_key is None:
            sentences.append(f"Forces are {layout.forces} with its sign turned.")
        return tuple(sentences)

    def frames(self, part: InputFile, options: Hdf5Options) -> Iterator[Parse]:
        """Yield the conformers, group after group in the order of their names."""
        layout, none = LAYOUTS[options.layout], True
        with h5py.File(part.path()) as file:
            if layout.root not in file:
                raise ValueError(_holds(file, layout))
            for group in _groups(_root(file, layout), layout):
                none = False
                if isinstance(group, ValueError):
                    yield partial(_refuse, str(group))
                    continue
                try:
                    molecule = _Molecule(group, layout)
                except Exception as error:  # a damaged group costs itself, whatever h5py raises
                    if disk_trouble(error):
                        raise
                    yield partial(_refuse, f"group {group.name}: {error}")
                    continue
                for index in range(molecule.conformers):
                    yield partial(molecule.frame, index)
            if none:
                raise ValueError(_holds(file, layout))

    def length(self, part: InputFile, options: Hdf5Options) -> int | None:
        """Return the number of conformers."""
        layout = LAYOUTS[options.layout]
        with h5py.File(part.path()) as file:
            found = list(_groups(_root(file, layout), layout))
            return sum(1 if isinstance(group, ValueError) else _conformers(group, layout) for group in found)


def _root(file: Any, layout: GroupLayout) -> Any:
    name = layout.root.strip("/")
    return own(file, name) if name else file


def _holds(file: Any, layout: GroupLayout) -> str:
    """Return that a file is not of a layout, the names that it has instead, and the layout that has them."""
    names: list[str] = []

    def probe(name: str, item: Any) -> bool | None:
        if isinstance(item, h5py.Dataset):
            names.append(name.rpartition("/")[2])
        return True if len(names) > 20 else None  # anything but None ends the visit

    file.visititems(probe)
    others = [str(name) for name, other in LAYOUTS.items() if {other.pos, other.numbers} <= set(names)]
    hint = f": set layout to {others[0]}" if others else ""
    found = ", ".join(dict.fromkeys(names)) or "no arrays"
    return f"no group below {layout.root} holds {layout.pos}; the file holds {found}{hint}"


def _refuse(reason: str) -> Frame:
    raise ValueError(reason)


def _groups(group: Any, layout: GroupLayout, visited: set[int] | None = None) -> Iterator[Any]:
    """Yield the groups below one that have positions; below those none are looked for.

    Each group once, whatever links lead to it: soft links lead to what has its own place in the file, or round in
    circles. In place of what lies in another file an error is yielded.
    """
    visited = set() if visited is None else visited
    address = h5py.h5o.get_info(group.id).addr
    if address in visited:
        return
    visited.add(address)
    if layout.pos in group:
        yield group
        return
    for name in group:
        try:
            child = own(group, name)
        except ValueError as error:
            yield error
            continue
        if isinstance(child, h5py.Group):
            yield from _groups(child, layout, visited)


def _conformers(group: Any, layout: GroupLayout) -> int:
    positions = own(group, layout.pos)
    if not isinstance(positions, h5py.Dataset):
        raise ValueError(f"there is no {layout.pos}")
    return 1 if layout.single else len(positions)


class _Molecule:
    """A group, whose arrays are read when the first of its conformers is."""

    def __init__(self, group: Any, layout: GroupLayout) -> None:
        self._group, self._layout = group, layout
        self.conformers = _conformers(group, layout)
        # In QM7-X the molecule is the group above its conformers.
        self._name = str(group.parent.name if layout.single else group.name).strip("/")
        self._read: dict[str, NDArray[Any] | None] = {}
        self._unit, self._remarks = _stated(group, layout)

    def _array(self, name: str) -> NDArray[Any] | None:
        if name not in self._read:
            found = own(self._group, name)
            self._read[name] = found[()] if isinstance(found, h5py.Dataset) else None
        return self._read[name]

    @cached_property
    def _numbers(self) -> NDArray[Any]:
        values = own(self._group, self._layout.numbers)[()]
        if values.dtype.kind in "SO":
            return np.array([number_of(bytes(symbol).decode()) for symbol in values.tolist()])
        return np.asarray(values)

    def _label(self, name: str, index: int) -> Any:
        """Return a label of one conformer, in eV and Angstrom; None when the file has none."""
        array = self._array(name)
        if array is None:
            return None
        layout = self._layout
        value = array if layout.single else array[index]
        if value.dtype.kind != "f":
            return value
        of_atoms = value.ndim == 2 and value.shape[-1] == 3  # an energy over a length
        return value * (self._unit / layout.length_unit if of_atoms else self._unit)

    def frame(self, index: int) -> Frame:
        """Return one conformer."""
        layout, numbers, positions = self._layout, self._numbers, self._array(self._layout.pos)
        if positions is None:
            raise ValueError(f"{self._name} has no {layout.pos}")

        def find(name: str) -> Any:
            if name == "molecule":
                return self._name
            value = self._label(name, index)
            if value is None or value.ndim == 0 or value.size == 1:
                return None if value is None else float(np.ravel(value)[0])
            return value

        forces = find(layout.forces)
        return Frame(
            numbers=numbers if numbers.ndim == 1 else numbers[index],
            pos=(positions if layout.single else positions[index]) * layout.length_unit,
            energy=find(layout.energy),
            forces=-forces if layout.gradients and forces is not None else forces,
            find=find,
            keys=self._keys,
            remarks=self._remarks,
        )

    @cached_property
    def _keys(self) -> KeySet:
        """Return the arrays of the group; their values are not read for it."""
        layout = self._layout
        found: dict[str, Any] = {}
        for name in self._group:
            array = None
            with suppress(ValueError):  # what lies in another file is not looked at
                array = own(self._group, name)
            if isinstance(array, h5py.Dataset) and name not in (layout.numbers, layout.pos):
                shape = array.shape if layout.single else array.shape[1:]
                text = array.dtype.kind in "SO"
                found[name] = "text" if text else np.broadcast_to(np.float64(0.0), () if shape == (1,) else shape)
        natoms = self._numbers.shape[-1]
        return _KEY_SETS.of(found, natoms, layout.energy, layout.forces)


def _attribute(array: h5py.Dataset) -> str | None:
    """Return the unit that an array states in its attributes, or None."""
    value = next((array.attrs[name] for name in ("units", "unit") if name in array.attrs), None)
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else None


def _stated(group: Any, layout: GroupLayout) -> tuple[float, tuple[Remark, ...]]:
    """Return the unit of energies in eV, and what to say of it; what the array states comes before the layout."""
    array = own(group, layout.energy) if layout.energy in group else None
    text = _attribute(array) if isinstance(array, h5py.Dataset) else None
    if text is None:
        return layout.energy_unit, ()
    unit = energy_unit(text)
    if unit is None:
        return layout.energy_unit, (
            Remark(f"{layout.energy} says {text[:40]!r}, which is not a unit known here.", True),
        )
    if abs(unit.value / layout.energy_unit - 1.0) < 1e-4:
        return layout.energy_unit, ()
    sentence = (
        f"{layout.energy} states {unit.name}, not the unit of the layout: energies and forces were converted by it."
    )
    return unit.value, (Remark(sentence, True),)
