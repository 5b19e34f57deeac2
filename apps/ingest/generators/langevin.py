"""Langevin dynamics with the BAOAB splitting.

B. Leimkuhler, C. Matthews, "Rational construction of stochastic numerical methods for molecular sampling",
Appl. Math. Res. Express 2013, 34: half kick, half drift, exact Ornstein-Uhlenbeck step, half drift, half kick.
Of the splittings it has the smallest error in configurational averages at a given step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ase import units
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


def maxwell_boltzmann(masses: NDArray[np.float64], temperature: float, rng: np.random.Generator) -> Vectors:
    """Draw velocities [N, 3] at ``temperature`` (K), in ASE's unit of velocity, without drift of the whole."""
    velocities = rng.normal(size=(len(masses), 3)) * np.sqrt(units.kB * temperature / masses)[:, None]
    drift = (masses[:, None] * velocities).sum(axis=0) / masses.sum()
    return np.asarray(velocities - drift)


def baoab(
    pos: Vectors,
    velocities: Vectors,
    masses: NDArray[np.float64],
    energy_and_forces: Callable[[Vectors], tuple[float, Vectors]],
    *,
    timestep_fs: float,
    friction_per_fs: float,
    temperature: float,
    rng: np.random.Generator,
) -> Iterator[tuple[Vectors, float, Vectors]]:
    """Yield positions (Angstrom), energy (eV) and forces (eV/Angstrom) after every step, without end.

    Parameters
    ----------
    pos, velocities
        Start [N, 3]; velocities in ASE's unit (Angstrom * sqrt(eV / (u * Angstrom**2))).
    masses
        Atomic masses [N], u.
    energy_and_forces
        The potential, called once per step and once at the start.
    timestep_fs, friction_per_fs
        Step and friction.
    temperature
        Kelvin.
    rng
        Source of the noise.
    """
    step = timestep_fs * units.fs
    damping = float(np.exp(-friction_per_fs * timestep_fs))
    noise = np.sqrt((1.0 - damping**2) * units.kB * temperature / masses)[:, None]
    per_mass = (0.5 * step / masses)[:, None]
    x, v = np.array(pos, dtype=np.float64), np.array(velocities, dtype=np.float64)
    _, forces = energy_and_forces(x)
    while True:
        v += per_mass * forces
        x = x + 0.5 * step * v
        v = damping * v + noise * rng.normal(size=v.shape)
        x = x + 0.5 * step * v
        energy, forces = energy_and_forces(x)
        v += per_mass * forces
        yield x, energy, forces
