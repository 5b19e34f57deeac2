"""Declared sources: conversions, filters, and the preview of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import PLAIN, crystals, ingest, joined, record, waters

from gfm_pipeline.apps.dataset import Dataset, neighbour_list
from gfm_pipeline.apps.ingest.checks import record_scan as survey_module
from gfm_pipeline.apps.ingest.checks.filters import Conversion, _pairs, clean, faults
from gfm_pipeline.apps.ingest.checks.fingerprints import fingerprint
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import (
    BadRecord,
    Duplicates,
    EnergyUnit,
    ForceSign,
    InconsistentPbc,
    SourceSettings,
)
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.errors import DataError

# --- conversions and filters ---------------------------------------------------------------------------------


def test_gradients_and_energies_per_atom_are_turned_into_forces_and_totals() -> None:
    source = replace(PLAIN, forces_are=ForceSign.GRADIENTS, energy_per_atom=True, energy_unit=EnergyUnit.HARTREE)
    converted = Conversion.of(source).apply(record())
    assert converted.energy == pytest.approx(-9.0 * units.Hartree)
    np.testing.assert_allclose(converted.forces, -0.5 * units.Hartree)
    assert [s.split()[0] for s in Conversion.of(source).sentences] == ["Energies", "Forces", "Energies", "The"]


def test_a_record_that_says_its_charge_keeps_it() -> None:
    conversion = Conversion.of(replace(PLAIN, charge=1, spin=2))
    assert (conversion.apply(record()).charge, conversion.apply(record()).spin) == (1, 2)
    assert conversion.apply(record(charge=-1.0)).charge == -1.0


@pytest.mark.parametrize(
    ("source", "change", "reason"),
    [
        (
            {},
            {"pos": np.array([[0.0, 0, 0], [0.35, 0, 0], [0, 0.9, 0]])},
            "atoms overlap: 0 and 1|atoms overlap: 1 and 0",
        ),
        ({"overlap": 0.0}, {"pos": np.array([[0.0, 0, 0], [0.2, 0, 0], [0, 0.9, 0]])}, "atoms overlap"),
        (
            {"inconsistent_pbc": InconsistentPbc.QUARANTINE},
            {"cell": 9.0 * np.eye(3)},
            "inconsistent pbc: a cell",
        ),
        ({"isolated_atoms": 4.0}, {"pos": np.array([[0.0, 0, 0], [0.9, 0, 0], [0, 9.0, 0]])}, "isolated atom: 2"),
        ({"max_force": 0.4}, {}, "force above the limit: 0.5"),
        ({}, {"pbc": np.array([True, False, False])}, "periodic cell has no volume"),
    ],
)
def test_each_filter_names_what_it_takes_out(source: dict[str, Any], change: dict[str, Any], reason: str) -> None:
    declared = replace(PLAIN, **source)
    found = clean(record(**change), declared, Conversion.of(declared))
    assert isinstance(found, BadRecord)
    assert any(found.reason.startswith(one) for one in reason.split("|"))
    assert isinstance(clean(record(), PLAIN, Conversion.of(PLAIN)), Record)


def test_every_filter_speaks_for_itself() -> None:
    source = replace(PLAIN, max_force=0.1, isolated_atoms=1.0)
    far = record(pos=np.array([[0.0, 0, 0], [0.2, 0, 0], [0, 9.0, 0]]))
    assert [reason.split(":")[0] for reason in faults(far, source)] == [
        "force above the limit",
        "atoms overlap",
        "isolated atom",
    ]


def test_all_distances_find_the_pairs_of_the_neighbour_list() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 17, 60):
        atoms = record(numbers=np.ones(n, dtype=int), pos=rng.uniform(0, 4, (n, 3)))
        fast, listed = _pairs(atoms, 1.5), neighbour_list(atoms.pos, atoms.cell, atoms.pbc, 1.5)
        once = set(zip(*(a.tolist() for a in fast[:2]), strict=True))
        assert once | {(j, i) for i, j in once} == set(zip(*(a.tolist() for a in listed[:2]), strict=True))
        np.testing.assert_allclose(fast[2], np.linalg.norm(atoms.pos[fast[0]] - atoms.pos[fast[1]], axis=1))


def test_pairs_of_crystals_are_those_of_the_neighbour_list() -> None:
    rng = np.random.default_rng(4)
    for n, width, reach in ((1, 2.5, 2.6), (8, 5.0, 1.9), (108, 10.8, 2.0), (700, 30.0, 2.0), (2000, 30.0, 1.0)):
        atoms = record(
            numbers=np.ones(n, dtype=int),
            pos=rng.uniform(0, width, (n, 3)),
            cell=np.eye(3) * width,
            pbc=np.ones(3, bool),
        )
        src, dst, distance = _pairs(atoms, reach)
        i, j, image = neighbour_list(atoms.pos, atoms.cell, atoms.pbc, reach)
        once = set(zip(src.tolist(), dst.tolist(), strict=True))
        assert once | {(b, a) for a, b in once} == set(zip(i.tolist(), j.tolist(), strict=True))
        if len(i):
            lengths = np.linalg.norm(atoms.pos[j] - atoms.pos[i] + image @ atoms.cell, axis=1)
            np.testing.assert_allclose([distance.min(), distance.max()], [lengths.min(), lengths.max()])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 4e-5))
def test_rounded_fingerprints_know_permuted_copies(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    grid = rng.integers(-5000, 5000, (n, 3)) * 1e-3  # in the middle of a step, so that noise does not leave it
    one = record(numbers=rng.integers(1, 9, n), pos=grid, forces=np.zeros((n, 3)))
    order = rng.permutation(n)
    other = replace(one, numbers=one.numbers[order], pos=grid[order] + noise)
    assert fingerprint(one, Duplicates.ROUNDED) == fingerprint(other, Duplicates.ROUNDED)
    moved = replace(one, pos=grid + np.array([0.002, 0, 0]))
    assert fingerprint(one, Duplicates.ROUNDED) != fingerprint(moved, Duplicates.ROUNDED)
    assert fingerprint(one, Duplicates.EXACT) != fingerprint(replace(one, energy=-3.1), Duplicates.EXACT)


def test_duplicates_are_named_with_the_record_they_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "COMPARED_AT_ONCE", 20)  # several passes
    frames = read(waters(tmp_path / "w.xyz", 60), ":")
    write(tmp_path / "w.xyz", [*frames[:50], frames[3], *frames[50:], frames[3], frames[7]])
    source = SourceSettings("w", "ase", (str(tmp_path / "w.xyz"),), group_key="run", shards=3)
    out = ingest(tmp_path / "out", source)
    bad = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [b["index"] for b in bad] == [50, 61, 62]
    assert [b["reason"].split(" of ")[0] for b in bad] == [
        "duplicate: the same as record 3",
        "duplicate: the same as record 3",
        "duplicate: the same as record 7",
    ]
    assert Dataset.open(out).statistics.reasons == {"duplicate": 3}
    with pytest.raises(DataError, match=r"3 of 63 records were set aside, more than the 1 % allowed \(3 x duplicate\)"):
        ingest(tmp_path / "strict", source, max_quarantined=0.01)
    kept = ingest(tmp_path / "kept", replace(source, duplicates=Duplicates.KEEP))
    assert Dataset.open(kept).statistics.n_quarantined == 0


def test_energies_outside_the_window_are_taken_out_and_the_references_fitted_again(tmp_path: Path) -> None:
    frames = read(waters(tmp_path / "w.xyz", 90), ":")
    frames[5].calc.results["energy"] += 40.0 * len(frames[5])
    write(tmp_path / "w.xyz", frames)
    source = SourceSettings("w", "ase", (str(tmp_path / "w.xyz"),), group_key="run", energy_window=(-5.0, 5.0))
    dataset = Dataset.open(ingest(tmp_path / "out", source))
    (line,) = (dataset.path / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["index"] == 5
    assert json.loads(line)["reason"].startswith("energy outside the window")
    assert 5 not in joined(dataset).origin.tolist()
    assert dataset.statistics.energy_std < 0.5  # nothing of the outlier is left in the references


# --- preview -------------------------------------------------------------------------------------------------


def test_preview_shows_what_ingest_would_do_and_writes_nothing(tmp_path: Path) -> None:
    frames = read(waters(tmp_path / "w.xyz", 90), ":")
    frames[4].positions[1] = frames[4].positions[0]
    frames[9] = Atoms("H2O", frames[9].positions)
    write(tmp_path / "w.xyz", [*frames, frames[0]])
    source = SourceSettings("w", "ase", (str(tmp_path / "w.xyz"),), group_key="run", max_force=1.6)
    before = sorted(tmp_path.rglob("*"))
    seen = preview(PreviewSpec(source, 1))
    assert (seen.read, seen.complete, len(seen.records), seen.total) == (91, True, 10, None)
    taken = {line.reason: line.records for line in seen.removed}
    assert taken["duplicate"] == taken["atoms overlap"] == 1
    assert taken["force above the limit"] > 0
    assert taken["no group"] + taken.get("no energy", 0) == 1
    assert seen.energies is not None
    assert sum(seen.energies.counts) == seen.usable
    assert sorted(tmp_path.rglob("*")) == before
    some = preview(PreviewSpec(source, 1, records=3, scan=20))
    assert (some.read, some.complete, len(some.records)) == (20, False, 3)


def test_preview_of_a_long_and_a_short_file_is_called_a_sample(tmp_path: Path) -> None:
    files = (str(waters(tmp_path / "a.xyz", 30)), str(waters(tmp_path / "b.xyz", 3, seed=1)))
    some = preview(PreviewSpec(SourceSettings("x", "ase", files), 1, scan=40))
    assert (some.read, some.files_read, some.complete) == (23, 2, False)
    assert preview(PreviewSpec(SourceSettings("x", "ase", files), 1, scan=60)).complete


def test_preview_warns_of_a_turned_sign(tmp_path: Path) -> None:
    source = SourceSettings("w", "ase", (str(crystals(tmp_path / "w.xyz", 60)),), group_key="@block:6")
    assert preview(PreviewSpec(source, 1)).warnings == ()
    (said,) = preview(PreviewSpec(replace(source, group_key="@file"), 1)).warnings
    assert said.startswith("All records are of one group, and training, validation and test need one each")
    turned = preview(PreviewSpec(replace(source, forces_are=ForceSign.GRADIENTS), 1))
    assert any("sign is turned" in warning for warning in turned.warnings)
    assert turned.checks[0].passed is False


def test_preview_of_a_source_without_a_usable_record_still_answers(tmp_path: Path) -> None:
    write(tmp_path / "bare.xyz", [molecule("H2O")] * 3)
    seen = preview(PreviewSpec(SourceSettings("x", "ase", (str(tmp_path / "bare.xyz"),)), 1))
    assert (seen.usable, seen.records, seen.energies) == (0, (), None)
    assert {line.reason: line.records for line in seen.removed} == {"no energy": 3}
