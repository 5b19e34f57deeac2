"""Splits by group, element references, and statistics of neighbours."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_cases import ALLOYS, all_columns, run_all, run_read
from lattices import brute_force, random_lattices
from pymatgen.core import Element

from gfm_pipeline.apps.dataset import Columns, Dataset
from gfm_pipeline.apps.dataset.neighbors.degrees import RADII, Degrees, degrees_of
from gfm_pipeline.apps.dataset.neighbors.small_systems import SMALL
from gfm_pipeline.apps.dataset.store.index import count, rows_of
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.assembly.splits import SPLITS, split_groups
from gfm_pipeline.apps.ingest.summary.atomic_energies import tables
from gfm_pipeline.apps.ingest.summary.references import fit_references, residual, solve_references
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


def test_references_of_one_composition_are_those_of_atoms_all_shifted_alike() -> None:
    found = fit_references(linear_columns([[1, 1, 8]] * 4, TRUTH), ("H", "O", "Cu"))
    assert found.rank == 1
    assert found.prior is not None
    assert found.prior.name == "all electrons of free atoms"
    free = {"H": -13.60, "O": -2043.84, "Cu": -45002.58}
    assert found.energies == pytest.approx({s: e + found.shift for s, e in free.items()}, abs=1e-6)
    assert 2 * found.energies["H"] + found.energies["O"] == pytest.approx(2 * TRUTH[1] + TRUTH[8])  # determined
    assert found.doubtful() == ("H", "O", "Cu")
    np.testing.assert_allclose(np.array(found.undetermined) @ [2, 1, 0], 0.0, atol=1e-12)
    assert "do not determine the reference energies of H, O, Cu one by one (rank 1 of 3)" in str(found.sentence())


ETHANOL, METHANOL = [6, 6, 8, 1, 1, 1, 1, 1, 1], [6, 8, 1, 1, 1, 1]
HARTREE = 27.211386245988


@pytest.mark.parametrize(
    ("ethanol", "methanol", "table"),
    [
        (-154.98 * HARTREE, -115.69 * HARTREE, "all electrons of free atoms"),  # hybrid density functionals
        (-11.394 * HARTREE, -8.222 * HARTREE, "GFN2-xTB atoms"),
        (-46.8, -30.2, "none: energies are counted from isolated atoms"),  # PBE, from atoms
    ],
)
def test_another_molecule_is_off_by_little_and_not_by_hundreds_of_ev(
    ethanol: float, methanol: float, table: str
) -> None:
    """Of the level that the one composition itself shows; with references of smallest norm it is 370 eV."""
    columns = replace(linear_columns([ETHANOL] * 5, TRUTH), graph_labels={"energy": np.full(5, ethanol)})
    found = fit_references(columns, ("H", "C", "O"))
    assert found.prior is not None
    assert found.prior.name == table
    composition = dict(zip(*np.unique(METHANOL, return_counts=True), strict=True))
    guess = sum(int(n) * found.energies[chemical_symbols[z]] for z, n in composition.items())
    assert abs(guess - methanol) < 3.0
    share = np.array(found.undetermined) @ [4, 1, 1]
    assert np.linalg.norm(share) > 0.1


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 6)] * 4), min_size=1, max_size=12).filter(lambda r: any(map(any, r))),
    seed=st.integers(0, 2**32 - 1),
)
def test_full_rank_is_plain_least_squares_and_less_changes_no_residual(rows: list[tuple[int, ...]], seed: int) -> None:
    numbers, counts = np.array([1, 6, 8, 29]), np.array(rows, dtype=float)
    energy = np.random.default_rng(seed).normal(-500.0, 100.0, len(rows))
    plain, _, rank, _ = np.linalg.lstsq(counts, energy, rcond=None)
    found = solve_references(numbers, counts, energy, ("H", "C", "O", "Cu"))
    fitted = np.array(list(found.energies.values()))
    if rank == 4:
        np.testing.assert_array_equal(fitted, plain)
        assert (found.undetermined, found.prior, found.sentence()) == ((), None, None)
    else:
        np.testing.assert_allclose(counts @ fitted, counts @ plain, rtol=1e-8)
        assert len(found.undetermined) == 4 - rank
        np.testing.assert_allclose(np.array(found.undetermined) @ counts.T, 0.0, atol=1e-9)


def test_tables_of_free_atoms_are_what_their_source_says() -> None:
    """Of the ionisation energies in pymatgen, and of GFN2-xTB where tblite is installed."""
    for z in (1, 2, 6, 8, 26, 29, 47, 79, 100):
        steps = Element.from_Z(z).ionization_energies
        assert tables()[3].energies[z - 1] == pytest.approx(-sum(steps), abs=0.006)
    for z, electrons in ((1, 1), (6, 4), (8, 6), (14, 4), (29, 11), (35, 7), (79, 11)):
        assert tables()[2].energies[z - 1] == pytest.approx(
            -sum(Element.from_Z(z).ionization_energies[:electrons]), abs=0.006
        )
    interface = pytest.importorskip("tblite.interface")
    for z, unpaired in ((1, 1), (6, 2), (8, 2), (29, 1)):
        atom = interface.Calculator("GFN2-xTB", np.array([z]), np.zeros((1, 3)), charge=0, uhf=unpaired)
        atom.set("verbosity", 0)
        energy = atom.singlepoint().get("energy") * HARTREE
        assert tables()[1].energies[z - 1] == pytest.approx(energy, abs=0.001)


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
