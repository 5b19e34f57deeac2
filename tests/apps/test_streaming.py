"""Datasets in bounded memory and over several files, and the commands that look into them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import ingest, waters

from gfm_pipeline.apps.dataset import BpFile, Columns, Dataset, read_columns
from gfm_pipeline.apps.dataset.inspect import inspect
from gfm_pipeline.apps.ingest.assembly import groups as survey_module
from gfm_pipeline.apps.ingest.assembly.shuffle import Buckets, CountedColumns, plan_files
from gfm_pipeline.apps.ingest.assembly.splits import GroupSplits
from gfm_pipeline.apps.ingest.checks.fingerprints import order_keys
from gfm_pipeline.apps.ingest.checks.record_scan import Fit
from gfm_pipeline.apps.ingest.summary.references import solve_references
from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.contracts.layout import CHUNK, LAYOUT_FILE, DatasetInfo, DatasetLayout, InspectSpec
from gfm_pipeline.core.errors import ConfigError, IntegrityError
from gfm_pipeline.core.records import read_record


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), blocks=st.integers(1, 6), elements=st.integers(1, 5))
def test_streamed_least_squares_is_the_whole_one(seed: int, blocks: int, elements: int) -> None:
    rng = np.random.default_rng(seed)
    present = np.arange(1, elements + 1)
    counts = rng.integers(0, 6, (blocks * 7, elements)).astype(float)
    counts[:, -1] = counts[:, 0]  # never determined by the data
    energy = counts @ rng.normal(scale=1000, size=elements) + rng.normal(size=len(counts))
    fit = Fit(present)
    for k in range(blocks):
        fit.add(counts[7 * k : 7 * k + 7], energy[7 * k : 7 * k + 7])
    names = ("H", "He", "Li", "Be", "B")[:elements]
    streamed, has = fit.solve(names, None), counts.any(axis=0)
    whole = solve_references(present[has], counts[:, has], energy, names)
    assert streamed.rank == whole.rank
    assert streamed.energies == pytest.approx(whole.energies, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("size", [400, 10**9])
def test_the_shuffled_order_does_not_depend_on_buckets(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    natoms = rng.integers(1, 5, 300)
    n = int(natoms.sum())
    columns = Columns.build(
        numbers=rng.integers(1, 9, n), pos=rng.normal(size=(n, 3)), forces=rng.normal(size=(n, 3)),
        energy=rng.normal(size=300), cell=np.zeros((300, 3, 3)), pbc=np.zeros((300, 3)), natoms=natoms,
        group=np.arange(300), origin=np.arange(300),
    )  # fmt: skip
    counted = CountedColumns(columns, rng.integers(0, 90, (n, 4)).astype(np.uint16))
    key = order_keys(7, np.zeros(300), np.arange(300))
    buckets = Buckets.sized(tmp_path, Split.TRAIN, 300, n, size=size)
    for part in np.array_split(np.arange(300), 4):
        buckets.add(key[part], counted.take(part))
    (records,) = buckets.chunks()
    found = records.columns
    np.testing.assert_array_equal(records.degrees, counted.take(np.argsort(key)).degrees)
    np.testing.assert_array_equal(found.origin, np.argsort(key))
    np.testing.assert_array_equal(found.pos, columns.take(np.argsort(key)).pos)
    assert not list(tmp_path.iterdir())


def test_chunks_are_divided_over_files_without_a_rest() -> None:
    atoms = {Split.TRAIN: (np.array([10, 20, 30, 4]), 3 * CHUNK + 5), Split.TEST: (np.array([7]), 3)}
    files = plan_files("x", atoms, 3)
    assert [name for name, _ in files] == ["x-00000.bp", "x-00001.bp", "x-00002.bp"]
    assert sum(labels[Split.TRAIN].n_graphs for _, labels in files) == 3 * CHUNK + 5
    assert [labels[Split.TRAIN].atom_start for _, labels in files] == [(0,), (0,), (0, 30)]
    assert [Split.TEST in labels for _, labels in files] == [False, False, True]
    assert plan_files("x", atoms, 1)[0][0] == "x.bp"


def test_very_many_groups_are_split_by_their_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    splits = GroupSplits(None, None, 0.1, 0.2, 3)
    ids = order_keys(1, np.arange(40_000))
    shares = np.bincount(splits.split(ids)) / len(ids)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)
    np.testing.assert_array_equal(splits.split(ids[::-1]), splits.split(ids)[::-1])
    monkeypatch.setattr(survey_module, "MAX_GROUPS", 5)
    source = SourceSettings("w", "ase", (str(waters(tmp_path / "w.xyz", 300)),), group_key="run")
    dataset = Dataset.open(ingest(tmp_path / "out", source))
    groups = [set(dataset.columns(split).group.tolist()) for split in Split]
    assert sum(map(len, groups)) == len(set.union(*groups)) == sum(dataset.statistics.n_groups.values()) == 30


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Publish one source as one file and as several, from one and from two shards."""
    folder = tmp_path_factory.mktemp("sharded")
    source = SourceSettings("w", "ase", (str(waters(folder / "w.xyz", 300)),), group_key="run", charge=1, spin=2)
    many = replace(source, shards=2)
    with pytest.MonkeyPatch.context() as patch:
        one = ingest(folder / "one", source)
        patch.setattr("gfm_pipeline.apps.ingest.assembly.shuffle.CHUNK", 16)
        patch.setattr("gfm_pipeline.apps.ingest.assembly.writer.CHUNK", 16)
        patch.setattr("gfm_pipeline.apps.ingest.assembly.writer.BpWriter", _block_writer)
        return one, ingest(folder / "many", many, shard_mb=0.05)


def _block_writer(*arguments: Any, **named: Any) -> Any:
    from gfm_pipeline.apps.dataset.store.write import BpWriter

    return BpWriter(*arguments, block=16, **named)


def test_shards_hold_the_same_records_as_one_file(sharded: tuple[Path, Path]) -> None:
    one, many = (Dataset.open(folder, digests=True) for folder in sharded)
    assert one.files == ("w.bp",)
    assert len(many.files) > 2
    layouts = [read_record(DatasetLayout, d.path / LAYOUT_FILE) for d in (one, many)]
    assert layouts[0].content == layouts[1].content  # of what is in them, not of the files
    for split in Split:
        a, b = one.columns(split), many.columns(split)
        np.testing.assert_equal(asdict(a), asdict(b))
        assert a.origin.tolist() != sorted(a.origin.tolist())
        np.testing.assert_array_equal(a.graph_attr, np.tile([[1.0, 2.0]], (len(a), 1)).astype(np.float32))
        with many.rows(split) as rows:
            picked = np.arange(0, len(rows), 3)
            np.testing.assert_array_equal(rows.read(picked).pos, a.take(picked).pos)
            assert rows.block == 16
    for file in layouts[1].files:  # every file by itself is one of HydraGNN's layout, with the index of its chunks
        with BpFile(many.path / file.file) as bp:
            for label, said_of in file.labels.items():
                columns = read_columns(bp, Split(label))
                assert (len(columns), len(columns.numbers)) == (said_of.n_graphs, said_of.n_atoms)
                assert columns.offsets[:-1][::16].tolist() == list(said_of.atom_start)


def test_info_head_verify_and_export(sharded: tuple[Path, Path], tmp_path: Path) -> None:
    one, many = sharded
    facts = inspect(InspectSpec("info", str(many)))
    assert isinstance(facts, DatasetInfo)
    assert sum(split.structures for split in facts.splits.values()) == 300
    assert facts.provenance["charge"] == 1
    assert facts.provenance["filters"]["duplicates"] == "exact"
    assert sum(facts.files.values()) < facts.bytes
    lines = inspect(InspectSpec("head", str(many), 2))
    assert {split: len(records) for split, records in lines.items()} == dict.fromkeys(map(str, Split), 2)
    assert lines["trainset"][0].formula in {"H2O", "CH4", "H3N"}
    assert inspect(InspectSpec("verify", str(many)))["structures"] == 300
    done = inspect(InspectSpec("export", str(many), output=str(tmp_path / "w.bp")))
    assert done.content == facts.content
    with BpFile(tmp_path / "w.bp") as bp:
        for split in Split:
            np.testing.assert_array_equal(read_columns(bp, split).forces, Dataset.open(one).columns(split).forces)
    with pytest.raises(ConfigError, match="exists already"):
        inspect(InspectSpec("export", str(many), output=str(tmp_path / "w.bp")))
    with pytest.raises(ConfigError, match=r"does not end in \.bp"):
        inspect(InspectSpec("export", str(many), output=str(tmp_path / "w")))
    assert [path.name for path in tmp_path.iterdir()] == ["w.bp"]


@pytest.mark.parametrize("action", ["info", "head", "verify", "export"])
def test_no_bp_file_is_opened_before_its_manifest_is_checked(
    sharded: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    import shutil

    folder = shutil.copytree(sharded[0], tmp_path / "copy")
    data = folder / "w.bp" / "data.0"
    data.write_bytes(data.read_bytes()[:-100])

    def never(*_: object) -> None:
        raise AssertionError("ADIOS2 was asked to open a damaged file")

    monkeypatch.setattr("gfm_pipeline.apps.dataset.store.rows.BpFile", never)
    with pytest.raises(IntegrityError, match=r"data\.0 has"):
        inspect(InspectSpec(action, str(folder), output=str(tmp_path / "out.bp")))
