"""A scalar of a structure, declared in the workflow: the dihedral angle that the data name, beside its mean."""

from __future__ import annotations

import pytest
from target_campaign import train


@pytest.mark.slow
@pytest.mark.long
def test_a_scalar_of_a_structure_goes_through_all_stages(tmp_path, real_data):
    declared = "dihedral: {level: graph, rank: scalar, unit: degree, reference: mean, keys: [dihedral_angle]}"
    found = train(tmp_path, real_data, declared, lambda atoms: None)
    labels = found.atoms.info["dihedral_angle"]
    assert found.errors.n == 20
    assert found.evaluated["dihedral"] == 5
    assert found.errors.mae < 3 * found.errors.null_mae
    assert "dihedral, degree" in found.report
    atoms = found.atoms
    atoms.calc = found.calculator
    atoms.get_potential_energy()
    results = atoms.calc.results
    assert 0 <= labels <= 360
    assert -180 < results["dihedral"] < 540  # with the mean added; a small model knows the angle roughly
    assert results["dihedral_interval"] > 0
    before = results["dihedral"]
    atoms.rotate(37, (1, 2, 3))
    atoms.get_potential_energy()
    assert atoms.calc.results["dihedral"] == pytest.approx(before, abs=0.01)  # degrees, of single precision
