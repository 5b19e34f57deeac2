"""Energy over simulations: what conservative forces keep, and direct forces do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from deploy_cases import random_potential
from model_cases import NAMES
from numpy.typing import NDArray

from gfm_pipeline.apps.deploy.batches import batch_of
from gfm_pipeline.models import ForceHead, Potential

STEP = 1.0 * units.fs  # of the demo's molecular dynamics
STEPS = 600
NANOSECOND = 1e6 * units.fs
MOST = 1e-4  # eV per atom and nanosecond


def shadow_energies(potential: Potential, steps: int) -> NDArray[np.float64]:
    """Return what velocity Verlet keeps at each step of a hot crystal of copper, eV per atom.

    The energy itself swings by some meV with the vibrations, which would hide a drift for nanoseconds. The integrator
    keeps H + dt^2 (v.U''.v / 12 - F.F / (24 m)) up to the fourth order (Hairer, Lubich, Wanner, Geometric Numerical
    Integration, 2006, IX.3); along a run -U'' v is the rate of the forces.
    """
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    mass, n = float(atoms.get_masses()[0]), len(atoms)
    velocity = np.random.default_rng(0).normal(0.0, np.sqrt(units.kB * 600.0 / mass), (n, 3))
    energies, forces, velocities = [], [], []

    def ask() -> None:
        found = potential(batch_of([atoms], potential.spec.cutoff, torch.float64, torch.device("cpu")))
        energies.append(float(found.energy))
        forces.append(found.forces.numpy())

    ask()
    for _ in range(steps):
        half = velocity + 0.5 * STEP * forces[-1] / mass
        atoms.positions += STEP * half
        ask()
        velocity = half + 0.5 * STEP * forces[-1] / mass
        velocities.append(velocity)
    force, speed = np.array(forces), np.array(velocities[:-1])
    rate = (force[2:] - force[:-2]) / (2.0 * STEP)
    force = force[1:-1]
    kept = np.array(energies[1:-1]) + 0.5 * mass * (speed**2).sum((1, 2))
    correction = -(speed * rate).sum((1, 2)) / 12.0 - (force**2).sum((1, 2)) / (24.0 * mass)
    return np.asarray((kept + STEP**2 * correction) / n)


def drift(potential: Potential, steps: int = STEPS) -> float:
    """Return the slope of what is kept, eV per atom and nanosecond."""
    kept = shadow_energies(potential, steps)
    return abs(float(np.polyfit(STEP * np.arange(len(kept)), kept, 1)[0])) * NANOSECOND


@pytest.mark.parametrize("algorithm", ["SchNet", "PaiNN"])
def test_conservative_forces_keep_the_energy(algorithm: str) -> None:
    potential = random_potential(3, algorithm=algorithm, layers=1, hidden=4, n_radial=4, repulsion=True)
    assert drift(potential) < MOST


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("algorithm", NAMES)
def test_ten_thousand_steps_keep_the_energy(algorithm: str) -> None:
    potential = random_potential(3, algorithm=algorithm, layers=1, hidden=4, n_radial=4, repulsion=True)
    assert drift(potential, 10_000) < MOST


def test_the_measure_sees_forces_that_are_no_gradient() -> None:
    potential = random_potential(3, layers=1, hidden=4, n_radial=4, force_head=ForceHead.DIRECT)
    assert drift(potential) > 100 * MOST
