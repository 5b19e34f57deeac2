"""A vector of a structure, which a package declares by an entry point: the dipole of charges that elements have."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from target_campaign import train

CHARGES = {"H": 0.1, "C": 0.05, "O": -0.525}  # of acetylacetone, C5H8O2, they sum to nothing


def label(atoms: Atoms) -> None:
    atoms.info["moment"] = np.array([CHARGES[symbol] for symbol in atoms.symbols]) @ atoms.positions


@pytest.mark.slow
def test_a_vector_of_a_structure_goes_through_all_stages(tmp_path, real_data, monkeypatch):
    (tmp_path / "moment_targets.py").write_text(
        "from gfm_pipeline.core.contracts.targets import Level, Rank, Target\n"
        'MOMENT = Target("moment", "e*Angstrom", "moment of the charges", Level.GRAPH, Rank.VECTOR, extensive=True)\n'
    )
    info = tmp_path / "moment_targets-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moment-targets\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[gfm_pipeline.targets]\nmoment = moment_targets:MOMENT\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    found = train(tmp_path, real_data, "moment: {weight: 5}", label)
    assert found.errors.n == 3 * 20
    assert found.evaluated["moment"] == 3 * 5
    assert found.errors.mae < found.errors.null_mae
    assert r"moment, e\*Å/atom" in found.report  # as Markdown escapes it
    atoms = found.atoms
    atoms.calc = found.calculator
    atoms.get_potential_energy()
    before = atoms.calc.results["moment"]
    assert before.shape == atoms.calc.results["moment_interval"].shape == (3,)
    atoms.rotate(90, "z", rotate_cell=True)
    atoms.get_potential_energy()
    turned = atoms.calc.results["moment"]
    np.testing.assert_allclose(turned, [-before[1], before[0], before[2]], atol=1e-6)
