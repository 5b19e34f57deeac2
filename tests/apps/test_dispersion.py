"""Dispersion beside an ensemble, through ASE."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.mixing import SumCalculator
from deploy_cases import EMT_BUNDLE

from gfm_pipeline.apps.calculator import GFMCalculator

d3 = pytest.importorskip("dftd3.ase", reason="dftd3 (the extra dispersion) is not installed")


def test_dispersion_is_added_to_energy_forces_and_stress() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)

    def given(calculator: object) -> tuple[float, np.ndarray, np.ndarray]:
        atoms.calc = calculator
        return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()

    ours, theirs = GFMCalculator(EMT_BUNDLE), d3.DFTD3(method="PBE", damping="d3bj")
    both = given(SumCalculator([ours, theirs]))
    parts = given(ours), given(theirs)
    for total, one, other in zip(both, *parts, strict=True):
        np.testing.assert_allclose(total, one + other, atol=1e-9)
    assert parts[1][0] < -0.1
