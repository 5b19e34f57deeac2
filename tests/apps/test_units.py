"""Records in another unit than the rest of their source are told, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from gfm_pipeline.apps.ingest.checks.filters import ENERGY_IN_EV
from gfm_pipeline.apps.ingest.checks.units import UnitTest
from gfm_pipeline.core.contracts.data import EnergyUnit

TOTAL = np.array([-13.6, -1030.0, -2040.0])  # eV, of H, C and O


def source(n: int = 400, references: np.ndarray = TOTAL, scatter: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return compositions and energies (eV) of a source without faults."""
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 8, (n, 3)) + np.array([1, 0, 0])
    return counts.astype(float), counts @ references + rng.normal(0.0, scatter, n) * counts.sum(axis=1)


@pytest.mark.parametrize("unit", EnergyUnit)
@pytest.mark.parametrize("other", EnergyUnit)
def test_a_third_in_another_unit_is_told_from_the_rest(unit, other):
    if unit is other:
        return
    counts, energy = source()
    wrong = np.arange(0, 400, 3)
    energy[wrong] *= ENERGY_IN_EV[unit] / ENERGY_IN_EV[other]
    test = UnitTest.fit(counts, energy, unit)
    assert test is not None
    found = test.units(counts, energy)
    assert [at for at, told in enumerate(found) if told is not None] == wrong.tolist()
    assert {found[at] for at in wrong} == {other}


def test_strange_energies_are_no_other_unit():
    counts, energy = source()
    energy[::7] += 40.0 * counts[::7].sum(axis=1)
    test = UnitTest.fit(counts, energy, EnergyUnit.EV)
    assert test is not None
    assert set(test.units(counts, energy)) == {None}


def test_nothing_is_said_where_the_scatter_is_not_small_beside_the_energies():
    """As with energies of atomisation: a molecule that falls apart has next to none, in any unit."""
    assert UnitTest.fit(*source(references=np.array([-2.0, -6.0, -4.0]), scatter=0.5), EnergyUnit.EV) is None
    assert UnitTest.fit(*source(n=10), EnergyUnit.EV) is None
