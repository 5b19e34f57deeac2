"""A run at constant pressure through ASE, by the stress of an ensemble."""

from __future__ import annotations

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.nptberendsen import NPTBerendsen
from deploy_cases import EMT_BUNDLE

from gfm_pipeline.apps.calculator import GFMCalculator


def test_a_compressed_cell_of_copper_expands_until_its_pressure_is_gone() -> None:
    atoms = bulk("Cu", a=3.5, cubic=True)
    atoms.rattle(0.02, seed=0)
    atoms.calc = GFMCalculator(EMT_BUNDLE)
    atoms.set_velocities(np.random.default_rng(0).normal(0.0, np.sqrt(units.kB * 100.0 / 63.5), (4, 3)))

    def pressure() -> float:
        return float(-atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa)

    before, volume = pressure(), atoms.get_volume()
    run = NPTBerendsen(
        atoms, 2.0 * units.fs, temperature_K=100.0, pressure_au=0.0, taut=50 * units.fs, taup=20 * units.fs,
        compressibility_au=1.0 / (140.0 * units.GPa),
    )  # fmt: skip
    pressures = []
    run.attach(lambda: pressures.append(pressure()))
    run.run(50)
    assert before > 5.0
    assert abs(np.mean(pressures[-15:])) < 0.3 * before
    assert 1.02 * volume < atoms.get_volume() < 1.15 * volume
