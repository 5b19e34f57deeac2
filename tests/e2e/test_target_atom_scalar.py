"""A scalar of each atom, declared in the workflow, with one reference for each element: how crowded an atom stands."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from target_campaign import train


def label(atoms: Atoms) -> None:
    distances = atoms.get_all_distances() + 100.0 * np.eye(len(atoms))
    atoms.set_array("crowding", np.exp(-((distances / 2.0) ** 2)).sum(1))


@pytest.mark.slow
def test_a_scalar_of_atoms_goes_through_all_stages(tmp_path, real_data):
    declared = "crowding: {level: atom, rank: scalar, reference: elements, weight: 2}"
    found = train(tmp_path, real_data, declared, label)
    expected = found.atoms.arrays["crowding"].copy()
    assert found.errors.n == 15 * 20
    assert found.evaluated["crowding"] == 15 * 5
    assert found.errors.mae < found.errors.null_mae
    assert "| crowding |" in found.report
    atoms = found.atoms
    atoms.calc = found.calculator
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert results["crowding"].shape == results["crowding_std"].shape == (15,)
    assert np.corrcoef(results["crowding"], expected)[0, 1] > 0.9
    order = np.arange(15)[::-1]
    turned = atoms[order]
    turned.calc = found.calculator
    turned.get_potential_energy()
    np.testing.assert_allclose(turned.calc.results["crowding"], results["crowding"][order], atol=1e-6)
