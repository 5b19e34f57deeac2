"""Labels that do not belong together are found, and those that do are left in peace."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.data import atomic_numbers
from ase.io import read
from source_cases import crystals, harmonic, ingest, record

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.ingest.checks.label_consistency import findings
from gfm_pipeline.apps.ingest.checks.label_evidence import Collector, Evidence
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import ForceSign, SourceSettings
from gfm_pipeline.core.publish import read_manifest

needs_data = pytest.mark.skipif(
    "GFM_REAL_DATA" not in os.environ, reason="GFM_REAL_DATA does not name a folder with real data sets"
)


def real_records(name: str) -> list[Record]:
    """Return records in eV and Angstrom; COMP6 ships gradients in Hartree (its README says so)."""
    root = Path(os.environ["GFM_REAL_DATA"])
    if name == "comp6":
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        found: list[Record] = []
        with h5py.File(root / "comp6" / "s66x8_wb97x6-31gd.h5") as file:

            def visit(group: str, node: Any) -> None:
                if not isinstance(node, h5py.Group) or "coordinates" not in node:
                    return
                numbers = np.array([atomic_numbers[s.decode()] for s in node["species"][:]])
                rows = zip(node["coordinates"][:], node["energies"][:], node["forces"][:], strict=True)
                for pos, energy, gradient in rows:
                    found.append(
                        record(
                            numbers=numbers,
                            pos=pos.astype(float),
                            energy=float(energy) * units.Hartree,
                            forces=-units.Hartree * gradient.astype(float),
                            group=group,
                        )
                    )

            file.visititems(visit)
        return found
    paths = {"3bpa": "3bpa/train_300K.xyz", "acac": "acac/train_300K.xyz", "Cu": "mlearn/Cu_train.xyz"}
    return [
        record(
            numbers=atoms.numbers,
            pos=atoms.positions,
            energy=atoms.calc.results["energy"],
            forces=atoms.calc.results.get("forces", atoms.arrays.get("force")),
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            group=str(atoms.info.get("group")),
        )
        for atoms in read(root / paths[name], ":")[:350]
    ]


def seen_in(records: list[Record], energy: float = 1.0, force: float = 1.0, length: float = 1.0) -> Evidence:
    """Collect evidence from records whose labels were scaled."""
    collector = Collector()
    for r in records:
        assert r.energy is not None
        assert r.forces is not None
        collector.add(
            replace(r, energy=r.energy * energy, forces=r.forces * force, pos=r.pos * length, cell=r.cell * length)
        )
    return collector.evidence()


def said(evidence: Evidence, energy: float = 1.0, force: float = 1.0) -> dict[str, str]:
    """Return look -> sentence of what does not pass; differences and work are linear in the labels."""
    scaled = replace(
        evidence, pairs=evidence.pairs * [1, force, energy, 1, force], bonds=evidence.bonds * [1, 1, force]
    )
    return {f.check: f.sentence for f in findings(scaled) if f.passed is False}


WORK = "energy change against work of the forces"


@needs_data
@pytest.mark.parametrize("name", ["comp6", "3bpa", "acac", "Cu"])
def test_wrong_labels_of_real_data_are_found_and_right_ones_pass(name: str) -> None:
    records = real_records(name)
    right = seen_in(records)
    assert said(right) == {}
    assert "set force_sign: gradients" in said(seen_in(records, force=-1.0))[WORK]
    assert "energies were in Ha" in said(right, energy=1 / units.Hartree)[WORK]
    assert "forces were in Ha/Bohr" in said(right, force=units.Bohr / units.Hartree)[WORK]
    bohr = said(seen_in(records, length=1 / units.Bohr))
    assert "positions were in Bohr" in bohr[WORK]
    assert "as if positions were in Bohr" in bohr["distances of neighbours"]
    assert "called Bohr" in said(seen_in(records[:60], length=units.Bohr))["distances of neighbours"]
    both = said(seen_in(records[:60], units.Hartree, units.Hartree))  # eV taken for Ha: consistent, yet impossible
    assert "lower than the electrons" in both["sizes of energies and forces"] or name == "Cu"


def test_harmonic_motion_has_slope_one_and_every_mistake_its_own() -> None:
    records = harmonic(60)
    right = seen_in(records)
    assert said(right) == {}
    for energy, force, text in [
        (1.0, -1.0, "Their sign is turned"),
        (23.0605, 1.0, "kcal/mol and forces in eV"),
        (1.0, 23.0605, "forces were in kcal/mol"),
        (1 / len(records[0].numbers), 1.0, "per atom"),
    ]:
        assert text in said(right, energy, force)[WORK]


def test_what_the_data_do_not_show_is_not_claimed() -> None:
    rng = np.random.default_rng(1)
    noise = seen_in([replace(r, energy=float(rng.normal())) for r in harmonic(60)])
    assert findings(noise)[0].passed is None
    assert all(f.passed is not False for f in findings(Evidence(np.zeros((0, 5)), np.zeros((0, 3)))))


def test_warnings_reach_the_result_the_statistics_and_the_report(tmp_path: Path) -> None:
    source = SourceSettings(
        "w", "ase", (str(crystals(tmp_path / "w.xyz", 90)),), group_key="@block:30", forces_are=ForceSign.GRADIENTS
    )
    out = ingest(tmp_path / "out", source)
    (warning,) = [w for w in Dataset.open(out).statistics.warnings if "Forces do not belong" in w]
    assert "slope -1" in warning
    assert f"- {warning}" in (out / "ingest_report.md").read_text()
    assert warning in read_manifest(out).meta["provenance"]["warnings"]


def rattled(metal: str, apart: float, n: int = 24) -> list[Record]:
    """Return EMT labels of independent frames whose atoms are off their sites by ``apart`` Angstrom per axis."""
    rng = np.random.default_rng(1)
    sites = bulk(metal, cubic=True) * (2, 2, 2)
    found = []
    for _ in range(n):
        atoms = sites.copy()
        atoms.positions += rng.normal(scale=apart, size=atoms.positions.shape)
        atoms.calc = EMT()
        found.append(
            record(
                numbers=atoms.numbers,
                pos=atoms.positions,
                energy=atoms.get_potential_energy(),
                forces=atoms.get_forces(),
                cell=atoms.cell.array,
                pbc=atoms.pbc,
            )
        )
    return found


def test_frames_too_far_apart_for_the_trapezoidal_rule_are_no_fault_of_the_labels() -> None:
    """Repulsive walls make the mean force of two far frames too large, in all pairs alike."""
    records = rattled("Pt", 0.2)
    right = seen_in(records)
    work = findings(right)[0]
    assert work.passed is None
    assert work.values["slope"] < 0.7
    assert "too far apart" in work.sentence
    assert WORK not in said(right)
    for energy, force in [(1.0, -1.0), (1 / units.Hartree, 1.0), (23.0605, 1.0), (1.0, 23.0605)]:
        assert WORK in said(right, energy, force), "a wrong unit is far more than what distance explains"
    assert WORK in said(seen_in(records, length=1 / units.Bohr))


@pytest.mark.parametrize(("metal", "apart"), [("Cu", 0.4), ("Cu", 0.5), ("Ni", 0.4), ("Pt", 0.45)])
def test_right_labels_of_atoms_far_off_their_sites_are_not_blamed(metal: str, apart: float) -> None:
    """Neither for the slope, which is as small as that of positions in Bohr, nor for neighbours that come close."""
    right = seen_in(rattled(metal, apart, 16))
    found = {f.check: f.passed for f in findings(right)}
    assert found[WORK] is None
    assert found["distances of neighbours"] is True


def test_a_wrong_scale_of_near_frames_is_not_put_down_to_distance() -> None:
    right = seen_in(harmonic(60))
    line = np.linspace(1.0, 2.0, 60)
    near = replace(right, pairs=np.stack([0.01 * line, line, 0.75 * line, 0 * line + 8, 0.1 * line], axis=1))
    assert "no pair of known units explains it" in said(near)[WORK]
    far = replace(near, pairs=near.pairs * [1, 1, 1, 1, 20])
    assert WORK not in said(far)


def test_strained_cells_too_far_apart_are_no_fault_of_the_stress() -> None:
    line = np.linspace(1.0, 2.0, 60)
    rows = np.stack([0.05 * line, line, 0.6 * line, 0 * line + 8, 0 * line + 90, 0.1 * line], axis=1)
    near = replace(seen_in(harmonic(20)), strains=rows)
    (stress,) = (f for f in findings(near) if f.check == "energy change against work of the stress")
    assert stress.passed is False
    (stress,) = (f for f in findings(replace(near, strains=rows * [1, 1, 1, 1, 1, 20])) if f.check == stress.check)
    assert stress.passed is None
    assert "too far apart" in stress.sentence


def test_evidence_of_an_earlier_version_joins_new_evidence() -> None:
    new = seen_in(harmonic(30))
    old = replace(new, pairs=new.pairs[:, :4], strains=np.zeros((3, 5)))
    joined = Evidence.merge([old, new])
    assert joined.pairs.shape == (2 * len(new.pairs), 5)
    assert joined.strains.shape == (3, 6)
