"""Splits by group, element references, and statistics of neighbours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_cases import ALLOYS, all_columns, run_all, run_read
from lattices import brute_force, random_lattices

from gfm_pipeline.apps.dataset import Columns, Dataset
from gfm_pipeline.apps.dataset.neighbors.degrees import RADII, Degrees, degrees_of
from gfm_pipeline.apps.dataset.neighbors.small_systems import SMALL
from gfm_pipeline.apps.dataset.store.index import count, rows_of
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.assembly.splits import SPLITS, split_groups
from gfm_pipeline.apps.ingest.summary.references import fit_references, residual
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import AssembleSpec, SourceSettings, Split
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=3, max_size=60),
    validation=st.floats(0.02, 0.45),
    test=st.floats(0.02, 0.45),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_are_disjoint_by_group(sizes: list[int], validation: float, test: float, seed: int) -> None:
    counts = np.array(sizes)
    which = split_groups(counts, validation, test, seed, "x")
    records = [int(counts[which == k].sum()) for k in range(3)]
    assert sum(records) == counts.sum()
    assert set(which.tolist()) == {0, 1, 2}  # no split is empty
    np.testing.assert_array_equal(which, split_groups(counts, validation, test, seed, "x"))
    for split, wanted in ((Split.VALIDATION, validation), (Split.TEST, test)):
        assert abs(records[SPLITS.index(split)] - wanted * counts.sum()) <= max(sizes)


def test_equal_groups_hit_the_fractions() -> None:
    sizes = np.full(200, 5)
    which = split_groups(sizes, 0.1, 0.15, 0, "x")
    assert (5 * np.bincount(which)).tolist() == [750, 100, 150]
    assert which.tolist() != split_groups(sizes, 0.1, 0.15, 1, "x").tolist()


def test_too_few_groups_say_what_to_do() -> None:
    assert split_groups(np.array([50, 3, 4]), 0.1, 0.1, 0, "x")[0] == SPLITS.index(Split.TRAIN)
    with pytest.raises(DataError, match=r"2 groups.*@block:N"):
        split_groups(np.array([2, 1]), 0.1, 0.1, 0, "x")
    with pytest.raises(DataError, match="leave a split empty"):
        split_groups(np.ones(9, dtype=int), 0.5, 0.5, 0, "x")


def linear_columns(numbers: list[list[int]], truth: dict[int, float]) -> Columns:
    flat = np.concatenate(numbers)
    rng = np.random.default_rng(0)
    return Columns.build(
        numbers=flat,
        pos=rng.normal(size=(len(flat), 3)),
        forces=rng.normal(size=(len(flat), 3)),
        energy=np.array([sum(truth[z] for z in n) for n in numbers]),
        cell=np.zeros((len(numbers), 3, 3)),
        pbc=np.zeros((len(numbers), 3)),
        natoms=np.array([len(n) for n in numbers]),
    )


TRUTH = {1: -13.5871, 6: -1030.125, 8: -2042.75}


def test_references_are_recovered_exactly() -> None:
    columns = linear_columns([[1, 1, 8], [6, 1, 1, 1, 1], [6, 8, 8], [6, 1, 1, 8], [1, 1]], TRUTH)
    found = fit_references(columns, ("H", "C", "O"))
    assert (found.rank, found.origin) == (3, "fit")
    assert found.energies == pytest.approx({"H": TRUTH[1], "C": TRUTH[6], "O": TRUTH[8]}, abs=1e-10)


def test_references_of_one_composition_are_the_smallest() -> None:
    found = fit_references(linear_columns([[1, 1, 8]] * 4, TRUTH), ("H", "O", "Cu"))
    total = 2 * TRUTH[1] + TRUTH[8]
    assert found.rank == 1
    assert found.energies == pytest.approx({"H": 2 * total / 5, "O": total / 5, "Cu": 0.0})


def test_isolated_energies_replace_the_fit() -> None:
    columns = linear_columns([[1, 1, 8], [6, 1, 1, 1, 1], [6, 8, 8]], TRUTH)
    given_all = fit_references(columns, ("H", "C", "O"), {"H": -1.0, "C": -2.0, "O": -3.0, "Fe": 9.0})
    assert given_all.energies == {"H": -1.0, "C": -2.0, "O": -3.0}
    assert given_all.origin == "isolated atoms"
    partly = fit_references(columns, ("H", "C", "O"), {"H": TRUTH[1]})
    assert partly.energies == pytest.approx({"H": TRUTH[1], "C": TRUTH[6], "O": TRUTH[8]})
    assert partly.rank == 3
    with pytest.raises(DataError, match="Xx"):
        fit_references(columns, ("H",), {"Xx": 1.0})


def test_references_come_from_training_only(tmp_path: Path) -> None:
    result = run_all(tmp_path, SourceSettings("alloys", "emt-alloys", options={**ALLOYS, "parents": 40}))
    dataset = Dataset.open(Path(result.output))
    columns = {split: dataset.columns(split) for split in Split}
    groups = [set(c.group.tolist()) for c in columns.values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    stats = result.statistics
    assert stats.reference == pytest.approx(fit_references(columns[Split.TRAIN], stats.elements).energies, abs=1e-12)
    everything = fit_references(all_columns(result), stats.elements).energies
    assert any(abs(everything[s] - stats.reference[s]) > 1e-6 for s in stats.elements)
    train = columns[Split.TRAIN]
    assert stats.n_structures == {"trainset": 48, "valset": 16, "testset": 16}
    assert stats.force_rms == pytest.approx(float(np.sqrt((train.forces.astype(float) ** 2).mean())))
    assert stats.null_force_mae["testset"] == pytest.approx(float(np.abs(columns[Split.TEST].forces).mean()), rel=1e-5)
    assert abs(stats.energy_mean) < stats.energy_std
    assert stats.max_atoms == 6
    left = residual(train, stats.reference)
    assert stats.reference_residual == pytest.approx(float(np.sqrt(np.mean(left**2))), rel=1e-6)


def test_neighbours_are_counted_and_reported(tmp_path: Path) -> None:
    result = run_all(tmp_path, SourceSettings("alloys", "emt-alloys", options=ALLOYS))
    dataset = Dataset.open(Path(result.output))
    columns = dataset.columns(Split.TRAIN)
    degrees = count(columns)
    rows = rows_of(columns, degrees)
    assert result.statistics.neighbours == Degrees.of(degrees).statistics()
    index = dataset.index(Split.TRAIN)
    assert index is not None
    np.testing.assert_array_equal(index.rows, rows)
    report = (Path(result.output) / "ingest_report.md").read_text()
    for title in (
        "Elements",
        "Sizes",
        "Neighbours",
        "Energy minus references",
        "Absolute force components",
        "Set aside",
    ):
        assert f"## {title}" in report
    assert f"| 5 | {result.statistics.neighbours[2].mean:.1f} |" in report
    assert "RMS of" in report


def test_degrees_of_molecules_and_crystals_are_those_of_brute_force() -> None:
    """Whether all distances are computed at once, or pairs are searched; many structures together or alone."""
    rng = np.random.default_rng(1)
    mixed = [(pos, cell, pbc) for pos, cell, pbc in random_lattices(200)]
    free = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    mixed += [(rng.uniform(0, 12, (n, 3)), *free) for n in (1, 2, 2, 40, SMALL - 1, SMALL, SMALL + 1, 120, 2, 40)]
    natoms = np.array([len(pos) for pos, _, _ in mixed])
    pos, cell, pbc = np.concatenate([m[0] for m in mixed]), *(np.stack([m[k] for m in mixed]) for k in (1, 2))
    found = degrees_of(pos, cell, pbc, natoms)
    for end, n, (atoms, vectors, periodic) in zip(np.cumsum(natoms), natoms, mixed, strict=True):
        single = atoms.astype(np.float32).astype(float), vectors.astype(np.float32).astype(float), periodic
        for k, radius in enumerate(RADII):
            expected = np.bincount(brute_force(*single, radius)[:, 0], minlength=n)
            np.testing.assert_array_equal(found[end - n : end, k], expected)
        np.testing.assert_array_equal(
            degrees_of(atoms, vectors[None], periodic[None], np.array([n])), found[end - n : end]
        )


def test_shards_from_before_degrees_were_kept_give_the_same_dataset(tmp_path: Path) -> None:
    source = SourceSettings("alloys", "emt-alloys", options=ALLOYS)
    before = run_all(tmp_path / "new", source)
    (shard,) = (Path(result.output) for result in run_read(tmp_path / "old", source))
    with publishing(tmp_path / "older", "test") as folder:
        for path in (path for path in shard.iterdir() if path.name in read_manifest(shard).files):
            if path.suffix != ".npz" or not path.name.startswith("part-"):
                shutil.copy(path, folder)
                continue
            with np.load(path, allow_pickle=False) as arrays:
                kept = {name: arrays[name] for name in arrays.files if name != "degrees"}
                assert len(kept) < len(arrays.files)
            np.savez(folder / path.name, allow_pickle=False, **kept)
    spec = AssembleSpec(source, (str(tmp_path / "older"),), 0.2, 0.2, 0.0, 5, str(tmp_path / "dataset"))
    assert assemble_program(spec, Task(tmp_path)).digest == before.digest
