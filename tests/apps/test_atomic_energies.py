"""Shares of the atoms in the energy."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk
from deploy_cases import EMT_BUNDLE, ensemble_of, random_potential

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.deploy.predictor import Predictor


def test_the_shares_of_atoms_sum_to_the_energy() -> None:
    for repulsion in (False, True):
        members = [random_potential(seed, repulsion=repulsion) for seed in (0, 1)]
        predictor = Predictor(ensemble_of({"Cu": -3.0, "Au": 2.0}, members))
        frames = [bulk("Cu", cubic=True), Atoms("CuAu", [[0, 0, 0], [0, 0, 1.9]]), Atoms("Au")]
        for atoms, found in zip(frames, predictor.predict(frames), strict=True):
            assert found["energies"].shape == found["energies_std"].shape == (len(atoms),)
            assert found["energies"].sum() == pytest.approx(found["energy"], abs=1e-9)
        assert found["energies"][0] - predictor.predict([Atoms("Cu")])[0]["energies"][0] != pytest.approx(0.0)
    atoms = bulk("Cu", cubic=True)
    atoms.calc = GFMCalculator(EMT_BUNDLE)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
