"""Atoms in LAMMPS and in ASE, for tests of an ensemble as the potential of LAMMPS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.data import atomic_masses, atomic_numbers
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from gfm_pipeline.apps.deploy.lammps_fix import lammps_with_mpi

CLOSE = 1e-5  # eV, eV/Angstrom and Angstrom


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.03, seed=1)
    return atoms


def lammps_of(atoms: Atoms, elements: Sequence[str], *commands: str, style: str = "metal") -> Any:
    """Return a LAMMPS that holds the atoms, in their cell or in free space."""
    lmp = lammps_with_mpi()
    low, high = ([0.0] * 3, atoms.cell.lengths()) if atoms.pbc.all() else ([-20.0] * 3, [20.0] * 3)
    box = "block " + " ".join(f"{a} {b}" for a, b in zip(low, high, strict=True))
    if tilts := [atoms.cell[place] for place in ((1, 0), (2, 0), (2, 1))] if atoms.pbc.all() else []:
        x, y, z = (atoms.cell[k, k] for k in range(3))
        box = f"prism 0 {x} 0 {y} 0 {z} {tilts[0]} {tilts[1]} {tilts[2]}" if any(tilts) else box
    lmp.commands_list(
        [
            f"units {style}",
            f"boundary {'p p p' if atoms.pbc.all() else 'f f f'}",
            "atom_style atomic",
            "atom_modify map array sort 0 0.0",
            f"region box {box}",
            f"create_box {len(elements)} box",
            *(f"mass {k} {atomic_masses[atomic_numbers[s]]}" for k, s in enumerate(elements, 1)),
            "pair_style zero 4.0",
            "pair_coeff * *",
            *commands,
        ]
    )
    types = [elements.index(symbol) + 1 for symbol in atoms.symbols]
    velocities = (atoms.get_velocities() * 1000.0 * units.fs).ravel().tolist()  # Angstrom/ps
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, atoms.positions.ravel().tolist(), velocities)
    return lmp


def of_atoms(lmp: Any, name: str, n: int) -> np.ndarray:
    """Return a property of the atoms in the order of their numbers."""
    return np.array(lmp.numpy.extract_atom(name)[:n])[np.argsort(lmp.numpy.extract_atom("id")[:n])]


def check_run(lmp: Any, atoms: Atoms) -> None:
    """Compare a run of 30 steps of LAMMPS with the same run of ASE; ``atoms`` are at its start, with a calculator."""
    VelocityVerlet(atoms, 1.0 * units.fs).run(30)
    n = len(atoms)
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=CLOSE)
    assert lmp.get_thermo("ke") == pytest.approx(atoms.get_kinetic_energy(), abs=CLOSE)
    np.testing.assert_allclose(of_atoms(lmp, "f", n), atoms.get_forces(), atol=CLOSE)
    moved = of_atoms(lmp, "x", n) - atoms.positions
    if atoms.pbc.all():
        moved -= np.round(moved / atoms.cell.lengths()) * atoms.cell.lengths()  # LAMMPS moves atoms into the box
        pressure = -np.trace(atoms.get_stress(voigt=False)) / 3.0
        kinetic = 2.0 * atoms.get_kinetic_energy() / (3.0 * atoms.get_volume())
        assert lmp.get_thermo("press") * units.bar == pytest.approx(pressure + kinetic, abs=CLOSE)
    np.testing.assert_allclose(moved, 0.0, atol=CLOSE)
    assert atoms.calc is not None
    spread = atoms.calc.results["forces_std"]
    assert np.abs(spread).max() > CLOSE  # the members do differ
    np.testing.assert_allclose(of_atoms(lmp, "d_forces_std", n), np.linalg.norm(spread, axis=1), atol=CLOSE)


def check_relaxation(lmp: Any, atoms: Atoms) -> None:
    """Compare a minimisation of LAMMPS with that of ASE; ``atoms`` are at its start, with a calculator."""
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=200)
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=CLOSE)
    np.testing.assert_allclose(of_atoms(lmp, "f", len(atoms)), atoms.get_forces(), atol=2 * CLOSE)
