"""Splits that the user brings are kept, whatever the seed, and what they share is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ingest_cases import run_read

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.assembly import groups
from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import AssembleResult, AssembleSpec, Duplicates, SourceSettings, Split
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.errors import DataError, WorkflowError
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_source

TRAIN, VALIDATION, TEST = Split
SIZES = {"train": 20, "valid": 4, "test": 6}
WORKFLOW = """\
name: c
data:
  sources:
    x: {{reader: ase, {source}}}
search: {{candidates: 4, space: {{algorithm: [SchNet]}}}}
"""


def frames(n: int, first: int = 0) -> list[Atoms]:
    made = []
    for k in range(first, first + n):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=k)
        atoms.info["run"] = f"r{k // 3}"
        atoms.calc = SinglePointCalculator(atoms, energy=-30.0 - 0.001 * k, forces=np.zeros((len(atoms), 3)))
        made.append(atoms)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file for each split, and ``all.xyz``, whose records say theirs."""
    everything, first = [], 0
    for name, n in SIZES.items():
        some = frames(n, first)
        write(tmp_path / f"{name}.xyz", some)
        for atoms in some:
            atoms.info["split"] = name
        everything += some
        first += n
    write(tmp_path / "all.xyz", everything[::-1])
    return tmp_path


def source_of(folder: Path, text: str) -> SourceSettings:
    path = folder / "workflow.yaml"
    path.write_text(WORKFLOW.format(source=text))
    return resolve_source(load_workflow(path, ()), "x")


def assembled(folder: Path, source: SourceSettings, seed: int = 5, limit: float = 0.5) -> AssembleResult:
    shards = tuple(result.output for result in run_read(folder / f"work{seed}", source))
    output = folder / f"dataset{seed}"
    return assemble_program(AssembleSpec(source, shards, 0.1, 0.1, limit, seed, str(output)), Task(folder))


def energies(result: AssembleResult, split: Split) -> list[float]:
    return sorted(Dataset.open(Path(result.output)).columns(split).energy.tolist(), reverse=True)


BY_FILE = "splits: {train: train.xyz, validation: valid.xyz, test: 'te*.xyz'}"


@pytest.mark.parametrize("text", [BY_FILE, "files: all.xyz, split_key: split", f"{BY_FILE}, group_key: '@file'"])
@pytest.mark.parametrize("few", [True, False])
def test_given_splits_are_kept_whatever_the_seed(
    folder: Path, text: str, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not few:  # more groups than are listed
        monkeypatch.setattr(groups, "MAX_GROUPS", 2)
        text += ", shards: 2" if "group_key" in text else ", shards: 2, group_key: run"
    source = source_of(folder, text)
    for seed in (1, 2):
        result = assembled(folder, source, seed)
        first = 0
        for split, n in zip(Split, SIZES.values(), strict=True):
            expected = [-30.0 - 0.001 * k for k in range(first, first + n)]
            np.testing.assert_allclose(energies(result, split), expected, rtol=1e-6)
            first += n


@pytest.mark.parametrize(
    ("text", "given", "dealt"),
    [
        ("splits: {train: train.xyz, test: test.xyz}", {TEST: 6}, VALIDATION),
        ("splits: {test: test.xyz}, files: [train.xyz, valid.xyz]", {TEST: 6}, VALIDATION),
        ("splits: {train: train.xyz, validation: valid.xyz}, group_key: run", {VALIDATION: 4}, TEST),
    ],
)
def test_a_split_that_was_not_given_is_dealt_from_training(
    folder: Path, text: str, given: dict[Split, int], dealt: Split
) -> None:
    source = source_of(folder, text)
    result = assembled(folder, source)
    counts = result.statistics.n_structures
    assert {split: counts[split] for split in given} == given
    assert 1 <= counts[dealt] <= 5
    assert any(s.startswith("Nothing was given to") for s in result.statistics.warnings)
    assert any(s.startswith("Nothing was given to") for s in preview(PreviewSpec(source, seed=1)).warnings)


@pytest.mark.parametrize("duplicates", [Duplicates.EXACT, Duplicates.KEEP])
def test_what_given_splits_share_is_said(folder: Path, duplicates: Duplicates) -> None:
    write(folder / "test.xyz", [*frames(6, 24), *frames(2, 0)])
    source = replace(source_of(folder, f"{BY_FILE}, group_key: run"), duplicates=duplicates)
    result = assembled(folder, source)
    repeated, shared = result.statistics.warnings[:2]
    assert "overlap: 2 records repeat a record of another split exactly" in repeated
    kept = duplicates is Duplicates.KEEP
    assert result.statistics.n_structures[TEST] == (8 if kept else 6)
    assert result.statistics.n_quarantined == (0 if kept else 2)
    # Run 6 is in training and validation; run 0, with duplicates, in test.
    assert f"share groups: {2 if kept else 1} groups are in training and in validation or test" in shared
    if not kept:
        clean = source_of(folder, f"{BY_FILE}")
        write(folder / "test.xyz", frames(6, 24))
        said = assembled(folder, clean, seed=6).statistics.warnings
        assert not any("splits as they were given" in sentence for sentence in said)


def test_records_without_a_split_are_named_and_a_split_without_records_is_refused(folder: Path) -> None:
    some = frames(3)
    some[0].info["split"] = "holdout"
    write(folder / "odd.xyz", some)
    seen = preview(PreviewSpec(source_of(folder, "files: [all.xyz, odd.xyz], split_key: split"), seed=1))
    assert {taken.reason: taken.records for taken in seen.removed} == {"no split": 2, "unknown split": 1}
    assert any(taken.example.endswith("no split: the record has no `split`") for taken in seen.removed)
    assert any("`split` is 'holdout', not train, validation or test" in taken.example for taken in seen.removed)
    assert {key.key: key.use for key in seen.labels.keys}["split"] == "split"
    for atoms in some:
        atoms.calc = None
    write(folder / "valid.xyz", some)
    with pytest.raises(DataError, match="no usable record of those given to validation"):
        assembled(folder, source_of(folder, BY_FILE))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("splits: {train: train.xyz, test: train.xyz}", "train.xyz is given to two splits"),
        ("splits: {train: train.xyz, test: gone.xyz}", "There is no file"),
        ("splits: {train: train.xyz}, files: valid.xyz", "valid.xyz is under no split"),
        ("splits: {test: test.xyz}", "No file is left for training"),
        ("splits: {train: train.xyz, test: test.xyz}, split_key: split", "by files and by a key"),
        ("splits: {training: train.xyz}", "training"),
    ],
)
def test_wrong_splits_are_refused_with_the_line(folder: Path, text: str, said: str) -> None:
    with pytest.raises(WorkflowError, match=said) as refused:
        source_of(folder, text)
    assert "workflow.yaml:4" in str(refused.value)


def test_generators_have_no_split_key(folder: Path) -> None:
    path = folder / "workflow.yaml"
    path.write_text(WORKFLOW.format(source="split_key: split").replace("reader: ase", "reader: emt-alloys"))
    with pytest.raises(WorkflowError, match=r"workflow.yaml:4: .*makes its own data, without splits"):
        resolve_source(load_workflow(path, ()), "x")


def test_generators_have_nothing_to_select_by(folder: Path) -> None:
    path = folder / "workflow.yaml"
    path.write_text(WORKFLOW.format(source="select: {head: a}").replace("reader: ase", "reader: emt-alloys"))
    with pytest.raises(WorkflowError, match=r"workflow.yaml:4: .*no keys to select by"):
        resolve_source(load_workflow(path, ()), "x")


def test_hydragnn_files_keep_their_splits_where_it_is_asked_for(folder: Path) -> None:
    first = assembled(folder, source_of(folder, BY_FILE))
    files = tuple(map(str, Path(first.output).glob("*.bp")))
    again = assembled(folder, SourceSettings("x", "hydragnn", files, options={}, split_key="split"), seed=9)
    for split in Split:
        np.testing.assert_allclose(energies(again, split), energies(first, split))


def test_index_lists_are_kept_and_records_of_no_list_are_not_used(folder: Path) -> None:
    for name, numbers in (("train", range(12)), ("validation", (14, 15, 16)), ("test", (20, 21, 25, 29))):
        (folder / f"{name}.csv").write_text("".join(f"{k}\n" for k in numbers))
    lone = Atoms("H", positions=[[0, 0, 0]])
    lone.calc = SinglePointCalculator(lone, energy=-13.0, forces=np.zeros((1, 3)))
    lone.info["config_type"] = "IsolatedAtom"
    write(folder / "lone.xyz", lone)
    lists = "split_indices: {train: train.csv, validation: validation.csv, test: test.csv}"
    source = source_of(folder, f"files: [all.xyz, lone.xyz], {lists}")
    assert [(one.split, one.records) for one in source.split_indices or ()] == [(TRAIN, 12), (VALIDATION, 3), (TEST, 4)]
    seen = preview(PreviewSpec(source, seed=1))
    assert seen.passed_over == {"in no index list of the source": 11}
    assert [(one.records, one.requested) for one in seen.splits] == [  # the isolated atom is training's
        (13, None), (3, None), (4, None)
    ]  # fmt: skip
    assert seen.failure is None


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("0 1 x", "", "'x' is no number of a record"),
        ("", "", "holds no number"),
        ("-1", "", "'-1' is no number"),
        ("1e3", "", "is no number"),
        ("3", "split_key: split", "Keep one of them"),
        (None, "", "There is no file"),
    ],
)
def test_a_wrong_index_list_is_one_sentence_with_its_line(
    folder: Path, text: str | None, more: str, words: str
) -> None:
    if text is not None:
        (folder / "n.txt").write_text(text)
    extra = f", {more}" if more else ""
    with pytest.raises(WorkflowError, match=words):
        source_of(folder, f"files: all.xyz, split_indices: {{test: n.txt}}{extra}")


def test_a_record_in_two_lists_is_refused(folder: Path) -> None:
    (folder / "a.txt").write_text("1, 2")
    (folder / "b.txt").write_text("2 3")
    with pytest.raises(WorkflowError, match="Record 2 is in the lists of train and test"):
        source_of(folder, "files: all.xyz, split_indices: {train: a.txt, test: b.txt}")
