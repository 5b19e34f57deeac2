"""The embedded generators: sound physics, and independent of shards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.emt import EMT
from ingest_cases import ALLOYS, all_columns, only_shard, run_all, run_read

from gfm_pipeline.apps.ingest.assembly.shard import read_shard
from gfm_pipeline.apps.ingest.generators.emt_alloys import random_parent
from gfm_pipeline.apps.ingest.generators.langevin import baoab, maxwell_boltzmann
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.options import EmtAlloysOptions
from gfm_pipeline.core.contracts.sources import validate_options
from gfm_pipeline.core.errors import DataError


@pytest.mark.parametrize("reader", ["emt-alloys", "xtb-md"])
def test_generators_do_not_depend_on_shards(tmp_path: Path, reader: str) -> None:
    options: dict[str, Any] = ALLOYS
    if reader == "xtb-md":
        pytest.importorskip("tblite", reason="tblite is not installed")
        options = {"molecules": ["H2O", "CH4"], "replicas": 2, "frames": 2, "burn_in_fs": 4, "stride_fs": 2}
    digests = []
    for n_shards in (1, 3, 1):
        source = SourceSettings("made", reader, options=options, shards=n_shards)
        folder = tmp_path / f"run{len(digests)}"
        digests.append(run_all(folder, source).digest)
    assert digests[0] == digests[1] == digests[2]
    records = get_reader(reader).count(SourceSettings("made", reader, options=validate_options(reader, options)))
    assert records == len(all_columns(run_all(tmp_path / "last", SourceSettings("made", reader, options=options))))
    other = run_read(tmp_path / "seed", SourceSettings("made", reader, options=options), seed=99)[0]
    first = read_shard(tmp_path / "run0" / "made-0")[0]
    assert not np.array_equal(read_shard(Path(other.output))[0].pos, first.pos)


def test_alloys_are_fcc_with_vegards_lattice_and_emt_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    options = EmtAlloysOptions(metals=("Cu", "Au"), sizes=(4, 5, 7, 8))
    shapes = set()
    for _ in range(30):
        parent = random_parent(options, rng)
        share = float((parent.numbers == 79).mean())
        lattice = (1 - share) * 3.61 + share * 4.08
        assert 0 < share < 1
        assert parent.get_volume() / len(parent) == pytest.approx(lattice**3 / 4, rel=1e-6)
        repeated = parent.repeat(3)
        distances = np.sort(repeated.get_distances(0, range(1, len(repeated)), mic=True))
        np.testing.assert_allclose(distances[:12], lattice / np.sqrt(2), rtol=1e-6)
        shapes.add((len(parent), *np.round(np.sort(parent.cell.lengths()) / lattice, 3).tolist()))
    assert len(shapes) > 5
    shard, bad = only_shard(tmp_path, SourceSettings("a", "emt-alloys", options=ALLOYS))
    assert bad == []
    assert Counter(shard.groups.tolist()).most_common()[-1][1] == 2
    n = int(shard.natoms[0])
    atoms = Atoms(shard.numbers[:n], shard.pos[:n], cell=shard.cell[0], pbc=True, calculator=EMT())
    assert atoms.get_potential_energy() == pytest.approx(shard.energy[0], abs=1e-9)
    atoms.positions[1, 2] += 1e-4
    up = atoms.get_potential_energy()
    atoms.positions[1, 2] -= 2e-4
    assert -(up - atoms.get_potential_energy()) / 2e-4 == pytest.approx(shard.forces[1, 2], abs=1e-4)


def test_xtb_forces_are_minus_the_gradient(tmp_path: Path) -> None:
    pytest.importorskip("tblite", reason="tblite is not installed")
    from gfm_pipeline.apps.ingest.generators.xtb_md import _XtbPotential

    options = {"molecules": ["H2O"], "temperatures": [300], "replicas": 1, "frames": 3, "burn_in_fs": 5}
    shard, bad = only_shard(tmp_path, SourceSettings("w", "xtb-md", options=options))
    assert bad == []
    assert set(shard.groups.tolist()) == {"H2O/300K/0"}
    pos = shard.pos[3:6].copy()
    energy, _ = _XtbPotential(shard.numbers[3:6], pos)(pos)
    assert energy == pytest.approx(shard.energy[1], abs=1e-5)
    step = np.zeros((3, 3))
    step[1, 0] = 1e-3
    potential = _XtbPotential(shard.numbers[3:6], pos)
    slope = (potential(pos + step)[0] - potential(pos - step)[0]) / 2e-3
    assert -slope == pytest.approx(shard.forces[4, 0], abs=2e-3)
    assert np.abs(shard.pos[6:9] - pos).max() > 0.01


def test_unknown_molecule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no molecule 'CH3COOHH'.*Did you mean CH3COOH"):
        run_read(tmp_path, SourceSettings("x", "xtb-md", options={"molecules": ["CH3COOHH"]}))


def test_baoab_samples_a_harmonic_well() -> None:
    rng = np.random.default_rng(1)
    n, temperature, stiffness = 500, 400.0, 3.0
    masses = np.full(n, 12.0)
    start = maxwell_boltzmann(masses, temperature, rng)
    assert 0.5 * 12.0 * (start**2).sum() / (1.5 * n * units.kB) == pytest.approx(temperature, rel=0.1)
    np.testing.assert_allclose((masses[:, None] * start).sum(axis=0), 0, atol=1e-10)

    def well(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        return 0.5 * stiffness * float((x**2).sum()), -stiffness * x

    steps = baoab(
        np.zeros((n, 3)), start, masses, well, timestep_fs=4.0, friction_per_fs=0.02, temperature=temperature, rng=rng
    )
    variances = []
    for k, (x, energy, forces) in enumerate(steps):
        assert energy == pytest.approx(well(x)[0])
        np.testing.assert_array_equal(forces, -stiffness * x)
        if k > 100 and k % 20 == 0:
            variances.append(float((x**2).mean()))
        if k == 700:
            break
    assert np.mean(variances) == pytest.approx(units.kB * temperature / stiffness, rel=0.04)
