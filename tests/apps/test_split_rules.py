"""Splits are held against what was asked for, and isolated atoms are references: whatever a source is like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_cases import run_all

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.ingest.assembly.groups import Groups, element_words, symbols_of
from gfm_pipeline.apps.ingest.assembly.split_rules import SplitRequest, choose_splits
from gfm_pipeline.apps.ingest.assembly.splits import split_groups
from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE_ID, is_lone
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import AssembleResult, SourceSettings, Split
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.errors import DataError

FREE = {"H": -13.6, "C": -1030.1, "N": -1486.1, "O": -2043.8}


def groups_of(sizes: list[int], elements: list[list[int]]) -> Groups:
    words = element_words(np.concatenate(elements).astype(np.uint8), np.array([len(e) for e in elements]))
    return Groups(np.arange(len(sizes), dtype=np.uint64), np.array(sizes), words)


def no_blocks(block: int) -> Groups | None:
    raise AssertionError("blocks were asked for")


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=40),
    seed=st.integers(0, 1000),
    elements=st.lists(st.lists(st.sampled_from([1, 6, 8, 29, 79]), min_size=1, max_size=3), min_size=40, max_size=40),
)
def test_training_has_every_element_where_the_groups_allow_it(
    sizes: list[int], seed: int, elements: list[list[int]]
) -> None:
    """And what has them already is dealt as ever."""
    groups = groups_of(sizes, elements[: len(sizes)])
    choice = choose_splits(groups, no_blocks, SplitRequest(0.1, 0.1, seed, "x", default=False))
    which = choice.splits.split(groups.ids)
    plain = split_groups(groups.sizes, 0.1, 0.1, seed, "x")
    assert set(which.tolist()) == {0, 1, 2}

    def of(rows: np.ndarray) -> set[str]:
        return {symbol for words in groups.elements[rows] for symbol in symbols_of(words)}

    everything = of(np.ones(len(sizes), dtype=bool))
    if of(plain == 0) == everything:
        np.testing.assert_array_equal(which, plain)
    missing = everything - of(which == 0)
    assert bool(missing) == any("Training has no record with" in sentence for sentence in choice.sentences)
    if len(sizes) > 5 + 2:  # a group for each element, and two for the others
        assert not missing


def test_groups_that_were_chosen_are_kept_and_what_is_wrong_with_them_is_said() -> None:
    groups = groups_of([60, 60, 60], [[1, 8], [1, 6], [1, 7]])
    choice = choose_splits(groups, no_blocks, SplitRequest(0.1, 0.1, 7, "x", default=False))
    assert sorted(choice.splits.split(groups.ids).tolist()) == [0, 1, 2]
    assert choice.block is None
    missing, sizes = choice.sentences
    assert missing.startswith("Training has no record with ")
    assert "60/60/60 records (33.3/33.3/33.3 %), and 80/10/10 % were asked for" in sizes


def test_groups_that_nobody_chose_give_way_to_blocks_where_they_miss_what_was_asked_for() -> None:
    groups = groups_of([60, 60, 60], [[1, 8], [1, 6], [1, 7]])
    asked: list[int] = []

    def blocks(block: int) -> Groups:
        asked.append(block)
        return groups_of([9] * 20, [[1, (8, 6, 7)[k // 7]] for k in range(20)])

    choice = choose_splits(groups, blocks, SplitRequest(0.1, 0.1, 7, "x", default=True))
    assert (asked, choice.block) == ([9], 9)
    assert np.bincount(choice.splits.split(np.arange(20, dtype=np.uint64))).tolist() == [16, 2, 2]
    (said,) = choice.sentences
    assert "3 whole groups make splits of 60/60/60 records" in said
    assert "20 blocks of 9 consecutive records are dealt to the splits instead" in said
    sound = groups_of([80, 10, 10], [[1, 8]] * 3)
    kept = choose_splits(sound, no_blocks, SplitRequest(0.1, 0.1, 7, "x", default=True))
    assert kept.block is None
    (few,) = kept.sentences
    assert few.startswith("The groups are few: of 3, validation holds 1 and test 1")


def test_isolated_atoms_alone_are_no_source() -> None:
    lone = Groups(np.array([LONE_ID], np.uint64), np.array([3]), np.zeros((1, 2), np.uint64))
    with pytest.raises(DataError, match=r"holds isolated atoms alone.*Give their file to the source"):
        choose_splits(lone, no_blocks, SplitRequest(0.1, 0.1, 7, "x", default=True))


def test_what_is_an_isolated_atom() -> None:
    def record(n: int, side: float, periodic: bool) -> Record:
        cell = np.eye(3) * side
        pbc = np.full(3, periodic)
        return Record(np.ones(n, int), np.zeros((n, 3)), None, -1.0, cell, pbc, "g", "f", 0, 0)

    assert is_lone(record(1, 0.0, False))
    assert is_lone(record(1, 10.0, True))
    assert not is_lone(record(1, 2.7, True))  # a metal of one atom per cell
    assert not is_lone(record(2, 10.0, True))
    assert not is_lone(record(1, 0.0, True))  # a cell without volume is a fault of its own


def labelled(atoms: Atoms, energy: float, **info: str) -> Atoms:
    atoms.info.update(REF_energy=energy, **info)
    atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3))
    return atoms


def trajectory(formula: str, n: int, seed: int = 0, **info: str) -> list[Atoms]:
    """Return frames of a molecule whose energy is that of its atoms less 4 eV an atom and some."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = molecule(formula)
        atoms.rattle(0.03, rng=rng)
        energy = sum(FREE[symbol] - 4.0 for symbol in atoms.symbols) + rng.normal(0.0, 0.1)
        frames.append(labelled(atoms, energy, **info))
    return frames


def isolated(spelling: str, off: float = 0.0) -> list[Atoms]:
    return [labelled(Atoms(s), FREE[s] + off, config_type=spelling) for s in ("H", "C", "O")]


def source_of(*files: Path, **options: str) -> SourceSettings:
    keys = {"energy_key": "REF_energy", "forces_key": "REF_forces", **options}
    return SourceSettings("m", "ase", tuple(str(file) for file in files), **keys)  # type: ignore[arg-type]


def check_isolated(result: AssembleResult) -> Dataset:
    stats = result.statistics
    assert stats.reference == {s: pytest.approx(FREE[s]) for s in ("H", "C", "O")}
    assert stats.reference_from == "isolated atoms"
    assert stats.reference_undetermined == ()
    dataset = Dataset.open(Path(result.output))
    assert [int((dataset.columns(split).natoms == 1).sum()) for split in Split] == [3, 0, 0]
    report = (Path(result.output) / "ingest_report.md").read_text()
    assert "their energies are the reference energies, H -13.6 eV, C -1030.1 eV, O -2043.8 eV" in report
    return dataset


@pytest.mark.parametrize("spelling", ["IsolatedAtom", "isolated_atom", "whatever"])
def test_isolated_atoms_among_one_trajectory_are_references_and_training(tmp_path: Path, spelling: str) -> None:
    path = tmp_path / "train.xyz"
    write(path, [*isolated(spelling), *trajectory("CH3OH", 60, config_type="md")])
    seen = preview(PreviewSpec(source_of(path), 1))
    (said,) = seen.warnings
    assert said.startswith("All records are of one group")
    assert "20 blocks of 3 consecutive records" in said
    assert any(sentence.startswith("Isolated atoms are among the records") for sentence in seen.conversions)
    result = run_all(tmp_path / "work", source_of(path))
    dataset = check_isolated(result)
    assert result.statistics.warnings == (said,)
    sizes = result.statistics.n_structures
    assert sum(sizes.values()) == 63
    assert min(sizes.values()) >= 6
    for split in (Split.VALIDATION, Split.TEST):  # whole blocks
        origins = np.sort(dataset.columns(split).origin)
        numbers, counts = np.unique(origins // (60 // 20), return_counts=True)
        assert len(numbers) < len(origins)
        assert counts.max() == 3


def test_a_file_of_isolated_atoms_needs_no_group_and_no_forces(tmp_path: Path) -> None:
    lone = isolated("IsolatedAtom")
    for atoms in lone:
        del atoms.arrays["REF_forces"]
    write(tmp_path / "isolated_atoms.xyz", lone)
    frames = [a for k in range(12) for a in trajectory("CH3OH", 4, seed=k, run=f"r{k}")]
    write(tmp_path / "train.xyz", frames)
    source = source_of(tmp_path / "isolated_atoms.xyz", tmp_path / "train.xyz", group_key="run")
    result = run_all(tmp_path / "work", source)
    check_isolated(result)
    assert (result.statistics.n_quarantined, result.statistics.warnings) == (0, ())


def test_isolated_atoms_of_another_level_are_not_used_and_said(tmp_path: Path) -> None:
    path = tmp_path / "train.xyz"
    write(path, [*isolated("IsolatedAtom", off=500.0), *trajectory("CH3OH", 30), *trajectory("H2O", 30)])
    result = run_all(tmp_path / "work", source_of(path))
    assert any("do not belong to those of the other records" in said for said in result.statistics.warnings)
    assert result.statistics.reference_from == "fit"


def test_three_compositions_are_not_put_whole_into_a_split(tmp_path: Path) -> None:
    path = tmp_path / "x.xyz"
    write(path, [*trajectory("H2O", 60), *trajectory("CH4", 60, 1), *trajectory("NH3", 60, 2)])
    result = run_all(tmp_path / "work", source_of(path), fraction=0.1)
    assert any("3 whole groups make splits of 60/60/60 records" in said for said in result.statistics.warnings)
    assert any("3 whole groups" in said for said in preview(PreviewSpec(source_of(path), 5)).warnings)
    train = Dataset.open(Path(result.output)).columns(Split.TRAIN)
    assert set(train.numbers.tolist()) == {1, 6, 7, 8}


def test_blocks_do_not_depend_on_how_the_source_is_read(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / f"{k}.xyz", trajectory("CH3OH", 17 + k, seed=k))
    files = [tmp_path / f"{k}.xyz" for k in range(3)]
    digests = set()
    for shards in (1, 2, 5):
        source = source_of(*files)
        result = run_all(tmp_path / f"work{shards}", SourceSettings(**{**source.__dict__, "shards": shards}))
        layout = json.loads((Path(result.output) / "layout.json").read_text())
        digests.add(layout["content"])
    assert len(digests) == 1
